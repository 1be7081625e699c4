"""Where a file's columns differ from those of other files, or from what the configuration says of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from distsgd.config import DataConfig
from distsgd.core.names import shortened
from distsgd.data.datafile import DataFile
from distsgd.data.formats import FileFormat
from distsgd.data.remedies import setting
from distsgd.data.schema import InputSchema
from distsgd.data.unusable import SHOWN, listing
from distsgd.errors import Problem, nearest


def differences(file: DataFile, schema: InputSchema, expected: InputSchema, first: str) -> list[Problem]:
    """Return where a file's columns are not those of `first`; their order may differ."""
    known, there = set(expected.columns), set(schema.columns)
    found = [_differs(file, f"column {shortened(n)!r} is not in {first}", n) for n in schema.columns if n not in known]
    if found:
        extra = [problem.columns[0] for problem in found]
        remedy = f"leave out what is not in all files: {setting('data.exclude', [*expected.excluded, *extra])}"
        found = [replace(problem, remedies=(remedy,)) for problem in found]
    for name in expected.columns:
        if name not in there:
            found.append(_differs(file, f"no column {shortened(name)!r}, which {first} has", name))
    if schema.width != expected.width and schema.columns[0] == expected.columns[0]:
        name, shapes = expected.columns[0], (_shape(schema.width), _shape(expected.width))
        found.append(
            _differs(file, f"column {shortened(name)!r} holds {shapes[0]}, in {first} {shapes[1]}", name, "the same")
        )
    if schema.labelled and expected.labelled:
        found += _label_differences(file, schema, expected, first)
    return found


def _label_differences(file: DataFile, schema: InputSchema, expected: InputSchema, first: str) -> list[Problem]:
    name = shortened(schema.label)
    if schema.label_kind != expected.label_kind:
        found = f"label column {name!r} is of {schema.label_kind}s, in {first} of {expected.label_kind}s"
        return [Problem(f"{file.path}: {found}; expected one type in all files", (), "label")]
    if schema.label_width != expected.label_width:
        found = f"label column {name!r} holds {_shape(schema.label_width)}, in {first} {_shape(expected.label_width)}"
        return [Problem(f"{file.path}: {found}; expected the same", (), "label")]
    return []


def _differs(file: DataFile, found: str, name: str, expected: str = "the same columns") -> Problem:
    return Problem(f"{file.path}: {found}; expected {expected}", (), "differs", (name,))


def type_differences(
    file: DataFile, schema: InputSchema, expected: InputSchema, first: str, storage: np.dtype[Any] | None
) -> list[Problem]:
    """Return which features of a file are not of the types of `first`, of those that both have.

    With `storage`, the type that the training rows are kept as, it is enough that this can hold them.
    """
    there, found = dict(zip(schema.columns, schema.types, strict=True)), []
    for name, kind in zip(expected.columns, expected.types, strict=True):
        if name not in there:
            continue
        alike = there[name] == kind and (name in schema.categorical) == (name in expected.categorical)
        if storage is None or {name} & (schema.categorical | expected.categorical):
            fits = alike
        else:
            fits = storage.kind == "f" or np.can_cast(there[name], storage)
        if not fits:
            here, wanted = (_type_name(s, name, t) for s, t in ((schema, there[name]), (expected, kind)))
            text = f"column {shortened(name)!r} is {here}, in {first} {wanted}"
            found.append(_differs(file, text, name, "one type everywhere"))
    return found


def _type_name(schema: InputSchema, name: str, kind: str) -> str:
    kind = {"str": "string"}.get(kind, kind)
    return f"categories of type {kind}" if name in schema.categorical and kind != "string" else kind


def _shape(width: int | None) -> str:
    return "single numbers" if width is None else f"lists of {width}"


def unlabelled(files: Sequence[DataFile], labels: Sequence[str]) -> list[Problem]:
    """Return the label columns of the training rows that held-out rows lack; another column would be no remedy."""
    found = []
    for file in files:
        names = file.schema.names
        for name in labels:
            if name not in names:
                near = nearest(shortened(name), map(shortened, names))
                text = f"no column {shortened(name)!r}{near} for data.label, which the training rows have; the columns "
                text += f"are {listing(names)}"
                remedy = "held-out rows need their labels, so add them, or use other rows"
                found.append(Problem(f"{file.path}: {text}", (remedy,), "label"))
    return found


def unknown_exclusions(location: str, files: Sequence[DataFile], config: DataConfig) -> list[Problem]:
    """Return the names in data.exclude that no file has."""
    names = dict.fromkeys(name for file in files for name in file.schema.names)
    found = []
    for name in config.exclude:
        if name not in names:
            near = nearest(shortened(name), map(shortened, names))
            text = f"{location}: no column {shortened(name)!r}{near} to exclude"
            found.append(Problem(text, ("correct data.exclude",), "choice", (name,)))
    return found


def not_for_unit(form: FileFormat, file: DataFile, schema: InputSchema) -> list[Problem]:
    """Return the columns that have no largest value by their type, which `unit` needs."""
    remedy = ("use data.normalize=standard, or none",)
    if form.harmonize is not None:
        text = f"{file.path}: data.normalize=unit needs integer types, and {form.name} has none"
        return [Problem(text, remedy, "unit")]
    floats = [(n, k) for n, k in zip(schema.columns, schema.stored_types, strict=True) if k.kind == "f"]
    texts = [f"column {shortened(n)!r} is {k}, and data.normalize=unit needs integers" for n, k in floats[:SHOWN]]
    texts += [f"and {len(floats) - SHOWN:,} more columns are"] if len(floats) > SHOWN else []
    return [Problem(f"{file.path}: {text}", remedy, "unit") for text in texts]
