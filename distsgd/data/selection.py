"""Which columns of a file are features; all that cannot be one is named in one message, with a setting that works."""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from distsgd.config import DataConfig
from distsgd.data.datafile import DataFile, doubt
from distsgd.data.dataset import InputSchema
from distsgd.data.remedies import setting
from distsgd.errors import DataError, nearest

LABEL_NAMES = ("label", "labels", "target", "class", "y", "species", "category", "outcome", "diagnosis")
"""What label columns are often called."""

SHOWN = 8
"""Columns that a message names."""

INDEX = re.compile(r"__index_level_\d+__")
"""What pandas calls an index without a name."""

DATES = " (to use a date, make columns of it, with pandas for example: d['month'] = pd.to_datetime(d['when']).dt.month)"
"""What to do about a date."""

LONGEST_SETTING = 280
"""Characters of a setting that a message gives; with more columns it says which key to use."""


def resolve(file: DataFile, label: str, config: DataConfig, *, labelled: bool = True) -> InputSchema:
    """Return the schema of a file: the columns `data.features` in that order, or by default all that can be features.

    Without `labelled` the label column need not be there. DataError if it is missing, or if columns cannot be used:
    the message names all of them, and what to add to the command line.
    """
    names = file.schema.names
    if labelled and Counter(names)[label] > 1:
        raise DataError(f"{file.path}: {names.count(label)} columns have the name {label!r}; rename all but one")
    lacking = labelled and label not in names
    guess = _likely_label(file, label) if lacking else label
    left_out = _index_columns(file, keep={guess, *(config.features or ())})
    chosen = config.features
    if chosen is None:
        skipped = {guess, *config.exclude, *(name for name, _ in left_out)}
        chosen = tuple(dict.fromkeys(name for name in names if name not in skipped))
    if not lacking:
        _check_chosen(file, label, chosen, config)
    problems = _problems(file, [name for name in chosen if name in names and name != guess], config)
    if lacking:
        near = f" (did you mean {guess!r}?)" if _near(label, [guess]) else ""
        listed = f"{file.path}: no column {label!r}{near} for data.label; the columns are "
        listed += f"{listing(names)}; which one is the label?"
        raise DataError(f"{listed} {_found(problems)}{_remedy(problems, chosen, config, guess)}")
    if problems:
        raise DataError(f"{file.path}: {_found(problems)}{_remedy(problems, chosen, config, None)}")
    types = [_values_type(file.schema.field(name).type) for name in chosen]
    is_list = _is_list(file.schema.field(chosen[0]).type)
    return InputSchema(
        chosen,
        tuple(_numpy_name(kind) for kind in types),
        _list_width(file, chosen[0]) if is_list else None,
        label,
        _label_kind(file, label) if labelled else None,
        categorical=frozenset(name for name, kind in zip(chosen, types, strict=True) if _is_category(kind)),
        left_out=tuple(left_out),
        excluded=config.exclude,
    )


def listing(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(repr(name) for name in names[:SHOWN]) + more


def _likely_label(file: DataFile, wanted: str) -> str:
    """Return the column that is most likely the label: by its name, else the last one that can be one."""
    names = file.schema.names
    possible = [field.name for field in file.schema if _label_type(field.type) is not None] or names or [wanted]
    usual = [name for known in LABEL_NAMES for name in possible if name.lower() == known]
    return str((_near(wanted, possible) or usual or possible[-1:])[0])


def _near(wanted: str, names: Sequence[str]) -> list[str]:
    return difflib.get_close_matches(wanted, names, n=1, cutoff=0.6)


def _index_columns(file: DataFile, keep: set[str]) -> list[tuple[str, str]]:
    """Return the columns that hold a pandas index, by the file's metadata or their name."""
    try:
        described = json.loads((file.schema.metadata or {}).get(b"pandas", b"{}"))
        found = {name for name in described.get("index_columns", ()) if isinstance(name, str)}
    except (ValueError, AttributeError, TypeError):  # somebody else's metadata
        found = set()
    names = [n for n in dict.fromkeys(file.schema.names) if (n in found or INDEX.fullmatch(n)) and n not in keep]
    return [(name, "pandas' index") for name in names]


def _check_chosen(file: DataFile, label: str, chosen: tuple[str, ...], config: DataConfig) -> None:
    """Refuse a choice of columns that is empty, repeats one, or names the label or what is not there."""
    names = dict.fromkeys(file.schema.names)
    counts = Counter(chosen)
    for name in config.features or ():
        if name == label:
            raise DataError(f"{file.path}: data.features names {name!r}, which is the label; leave it out")
        if name not in names:
            others = [known for known in names if known != label]
            raise DataError(
                f"{file.path}: no column {name!r}{nearest(name, others)} for the features; "
                f"the columns are {listing(list(names))}"
            )
        if counts[name] > 1:
            raise DataError(f"data.features names {name!r} twice; name it once")
    if label in config.exclude and label in names:
        raise DataError(f"{file.path}: data.exclude names {label!r}, which is the label; leave it out")
    if not chosen:
        raise DataError(f"{file.path}: no feature column; expected at least one beside the label {label!r}")


Problems = dict[str, list[tuple[str, str]]]
"""Columns that cannot be features, by reason: their names, and what a message says of each."""


def _problems(file: DataFile, chosen: Sequence[str], config: DataConfig) -> Problems:
    """Return the columns that cannot be features."""
    counts, found, usable = Counter(file.schema.names), Problems(), list[str]()
    for name in chosen:
        if counts[name] > 1:
            text = f"{counts[name]} columns have the name {name!r}"
            found.setdefault("rename all but one", []).append((name, text))
            continue
        kind = file.schema.field(name).type
        values, reason, text = _values_type(kind), doubt(file, name), f"column {name!r} is {str(kind)[:100]}"
        if reason is not None:
            text = f"column {name!r} is text, and features are numbers: {reason}"
            found.setdefault("", []).append((name, text))
        elif _is_number(values):
            usable.append(name)
        elif _is_category(values) and not _is_list(kind):
            if config.categorical != "refuse":
                usable.append(name)
            else:
                found.setdefault("and data.categorical is refuse", []).append((name, text))
        elif pa.types.is_temporal(values):
            found.setdefault("and dates and times are no features", []).append((name, text))
        else:
            found.setdefault("and features are numbers or categories", []).append((name, text))
    lists = [name for name in usable if _is_list(file.schema.field(name).type)]
    if lists and len(usable) > 1:
        beside = [(name, f"column {name!r}") for name in usable if name != lists[0]]
        found[f"beside column {lists[0]!r}, which holds lists and can only be the one feature column"] = beside
    return found


def _found(problems: Problems) -> str:
    """Return all problems in a line."""
    parts = []
    for reason, columns in problems.items():
        more = f" and {len(columns) - SHOWN} more" if len(columns) > SHOWN else ""
        listed = ", ".join(text for _, text in columns[:SHOWN]) + more
        parts.append(f"{listed}, {reason}" if reason else listed)
    return "; ".join(parts) + ("; " if parts else "")


def _remedy(problems: Problems, chosen: Sequence[str], config: DataConfig, label: str | None) -> str:
    """Return what to add to the command line."""
    names = [name for found in problems.values() for name, _ in found]
    settings = [setting("data.label", label)] if label is not None else []
    rest = [name for name in chosen if name not in set(names)]
    if names and config.features is not None:
        settings += [setting("data.features", rest)] if rest else []
    elif names:
        settings.append(setting("data.exclude", [*config.exclude, *names]))
    hint = DATES if any("dates" in reason for reason in problems) else ""
    if not settings:
        return f"cast them to numbers, or name other columns in data.features{hint}"
    text = " ".join(settings)
    if len(text) > LONGEST_SETTING:
        return f"list the columns to leave out in data.exclude, or those to use in data.features{hint}"
    return f"leave out what cannot be used: {text}{hint}" if names else f"Say so: {text}"


def _plain(kind: pa.DataType) -> pa.DataType:
    """Return an extension type's storage type (a fixed-shape tensor's is a list), any other type as it is."""
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def _is_list(kind: pa.DataType) -> bool:
    kind = _plain(kind)
    return bool(pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _values_type(kind: pa.DataType) -> pa.DataType:
    return _plain(kind).value_type if _is_list(kind) else kind


def _is_number(kind: pa.DataType) -> bool:
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal)
    return any(test(kind) for test in tests)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_category(kind: pa.DataType) -> bool:
    """Return whether a column's values are categories: text, or a dictionary of text, integers or booleans."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
        return _is_text(kind) or bool(pa.types.is_integer(kind) or pa.types.is_boolean(kind))
    return _is_text(kind)


def _numpy_name(kind: pa.DataType) -> str:
    """Return the NumPy type of a column's values; `str` for text, `int64` for categories that are integers."""
    if pa.types.is_dictionary(kind):
        value = kind.value_type
        return "str" if _is_text(value) else "bool" if pa.types.is_boolean(value) else "int64"
    if _is_text(kind):
        return "str"
    return "float64" if pa.types.is_decimal(kind) else np.dtype(kind.to_pandas_dtype()).name


def _label_type(found: Any) -> Literal["integer", "string"] | None:
    kind = found.value_type if pa.types.is_dictionary(found) else found
    if _is_number(kind):
        return "integer"
    return "string" if _is_text(kind) else None


def _label_kind(file: DataFile, label: str) -> Literal["integer", "string"]:
    found = file.schema.field(label).type
    kind = _label_type(found)
    if kind is None:
        raise DataError(
            f"{file.path}: label column {label!r} is {found}; labels are integers or strings: cast it, or choose "
            "another column with data.label"
        )
    return kind


def _list_width(file: DataFile, column: str) -> int:
    """Return the length of a column's lists, by its type or else by its first row."""
    kind = _plain(file.schema.field(column).type)
    if pa.types.is_fixed_size_list(kind):
        width = int(kind.list_size)
    else:
        first = next((b.column(column)[0] for b in file.batches([column], 1) if b.num_rows), None)
        width = len(first) if first is not None and first.is_valid else 0
    if width < 1:
        raise DataError(f"{file.path}: the lists of column {column!r} hold no values; expected one for each feature")
    return width
