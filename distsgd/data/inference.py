"""Types of columns that are found by reading text: those of several files have to be made to agree."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from distsgd.data.datafile import DataFile


def with_common_types(files: Sequence[Any], label: str, like: pa.Schema | None) -> list[DataFile]:
    """Return the files with types that they can all be read as, and as `like`, the training rows', if that is given.

    The files are dataclasses whose `batches` reads the rows as the types of their field `schema`.

    A file in which a column happens to hold only whole numbers, or nothing, says less about it than the others. Only
    labels are widened to strings; a feature that is text in one file is left for the schema check to name.
    """
    wide: dict[str, pa.DataType] = {}
    for schema in [*(f.schema for f in files), *([like] if like is not None else [])]:
        for field in schema:
            wide[field.name] = _wider(wide.get(field.name, pa.null()), field.type, field.name == label)
    return [dataclasses.replace(f, schema=_widened(f.schema, wide, label)) for f in files]


def _widened(schema: pa.Schema, wide: dict[str, pa.DataType], label: str) -> pa.Schema:
    return pa.schema([(field.name, _wider(field.type, wide[field.name], field.name == label)) for field in schema])


def _wider(kind: pa.DataType, other: pa.DataType, is_label: bool) -> pa.DataType:
    """Return the type that text of both types can be read as: nothing, int64, double or, for a label, string."""
    order = [pa.null(), pa.int64(), pa.float64(), *([pa.string()] if is_label else [])]
    ranks = [_rank(t, order) for t in (kind, other)]
    if ranks[0] == 0 and ranks[1] < 0:
        return other
    return kind if min(ranks) < 0 else order[max(ranks)]


def _rank(kind: pa.DataType, order: Sequence[pa.DataType]) -> int:
    """Return the place of a type, or of the type of text that holds its values, in `order`; -1 if it has none."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    for test, held in (
        (pa.types.is_integer, pa.int64()),
        (pa.types.is_floating, pa.float64()),
        (pa.types.is_large_string, pa.string()),
    ):
        if test(kind):
            kind = held
    return order.index(kind) if kind in order else -1
