"""Whether a file fits a model: its columns, those to carry along, its labels; one message has all differences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import pyarrow as pa
from numpy.typing import NDArray

from distsgd.core.inputs import Column, Inputs
from distsgd.core.losses import Target
from distsgd.core.names import shortened
from distsgd.data.datafile import DataFile
from distsgd.data.kinds import is_list, is_number, is_text, label_type, plain, values_type
from distsgd.data.label_types import array_kind, check_weights
from distsgd.data.unusable import listing
from distsgd.errors import DataError, counted, nearest

SHOWN = 5
"""Differences between a file and a model that a message names."""


def check_fits(file: DataFile, inputs: Inputs) -> None:
    """Refuse a file whose columns a model cannot take, with all that is different."""
    counts = Counter(file.schema.names)
    found = [problem for column in inputs.columns if (problem := _problem(file.schema, column, counts))]
    if found:
        more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        expected = listing([column.name for column in inputs.columns])
        raise DataError(
            f"{file.path} does not fit the model: {'; '.join(found[:SHOWN])}{more}; the model was trained on the "
            f"columns {expected}: rename or convert the file's columns"
        )


def _problem(schema: pa.Schema, column: Column, counts: Counter[str]) -> str | None:
    """Return why a model cannot take its column from a file; None if it can."""
    name = shortened(column.name)
    if not counts[column.name]:
        return f"no column {name!r}{nearest(name, [shortened(known) for known in counts])}"
    if counts[column.name] > 1:
        return f"{counts[column.name]} columns have the name {name!r}"
    kind = plain(schema.field(column.name).type)
    if column.kind == "list":
        if not is_list(kind) or not is_number(values_type(kind)):
            return f"column {name!r} is {_short(kind)}, expected lists of {column.width} numbers"
        if pa.types.is_fixed_size_list(kind) and kind.list_size != column.width:
            return f"column {name!r} holds lists of {kind.list_size}, expected {column.width}"
        return None
    if column.kind in ("number", "boolean"):
        return None if is_number(kind) else f"column {name!r} is {_short(kind)}, expected numbers"
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if column.dtype == "str":
        return None if is_text(kind) else f"column {name!r} is {_short(kind)}, expected text"
    fits = pa.types.is_integer(kind) or pa.types.is_boolean(kind)
    return None if fits else f"column {name!r} is {_short(kind)}, expected integers"


def check_kept(file: DataFile, first: DataFile, keep: Sequence[str]) -> None:
    """Refuse columns to carry along that a file does not have once, or not of the type that the first file has."""
    counts = Counter(file.schema.names)
    for name in keep:
        if counts[name] != 1:
            near = "" if counts[name] else nearest(name, [shortened(known) for known in counts])
            how = "no column" if not counts[name] else f"{counts[name]} columns"
            raise DataError(
                f"{file.path}: {how} {shortened(name)!r}{near} to keep; the columns are {listing(list(counts))}"
            )
        here, there = file.schema.field(name).type, first.schema.field(name).type
        if here != there:
            raise DataError(
                f"{file.path}: column {shortened(name)!r} is {_short(here)}, in {first.path} {_short(there)}; expected "
                "one type in all files for a column to keep"
            )


def label_kind(
    files: Sequence[DataFile], names: Sequence[str], outputs: NDArray[Any], target: Target
) -> tuple[Literal["integer", "string", "labels", "numbers"], int | None]:
    """Return what the labels of files are, and the length of their lists; DataError if there are none that fit."""
    for file in files:
        for name in names:
            count = file.schema.names.count(name)
            if count != 1:
                near = nearest(name, [shortened(known) for known in file.schema.names])
                raise DataError(
                    f"{file.path}: {count or 'no'} column{'s' * (count > 1)} {shortened(name)!r}{near} for the label, "
                    f"which the model was trained with; the columns are {listing(file.schema.names)}"
                )
    if target == "class":
        kinds_of_classes = [_class_kind(file, names[0]) for file in files]
        return kinds_of_classes[0], None
    kinds = [array_kind(file, names, target) for file in files]
    for file, (_, width) in zip(files, kinds, strict=True):
        if (width or len(names)) != len(outputs):
            raise DataError(
                f"{file.path}: label column {shortened(names[0])!r} holds {counted(width or 1, 'value')}, and the "
                f"model has {counted(len(outputs), 'output')}"
            )
    return kinds[0]


def _class_kind(file: DataFile, name: str) -> Literal["integer", "string"]:
    """Return the kind of a column of classes; DataError if it is none."""
    found = file.schema.field(name).type
    kind = label_type(found)
    if kind is None:
        raise DataError(
            f"{file.path}: label column {shortened(name)!r} is {_short(found)}; expected integers or strings"
        )
    return kind


def has_weights(files: Sequence[DataFile], name: str | None) -> bool:
    """Return whether all files have the column of weights, if it has a name; DataError if it cannot be weights."""
    if name is None or not all(name in file.schema.names for file in files):
        return False
    for file in files:
        count = file.schema.names.count(name)
        if count > 1:
            raise DataError(f"{file.path}: {count} columns have the name {shortened(name)!r}; rename all but one")
        check_weights(file, name)
    return True


def _short(kind: pa.DataType) -> str:
    return str(kind)[:100]
