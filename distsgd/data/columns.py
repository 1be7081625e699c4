"""The features of a batch of rows, as an array of numbers."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from distsgd.core.encoding import one_hot
from distsgd.core.inputs import Column
from distsgd.core.names import shortened
from distsgd.data.schema import InputSchema
from distsgd.errors import counted


def in_order_of(schema: InputSchema, expected: InputSchema) -> InputSchema:
    """Return the schema with its feature columns in the order of another one that has the same."""
    types = dict(zip(schema.columns, schema.types, strict=True))
    return replace(
        schema,
        columns=expected.columns,
        types=tuple(types[name] for name in expected.columns),
        fitted=expected.fitted,
    )


class RowError(Exception):
    """A value that cannot be used, by its row in the batch; the caller, which knows the file, raises a DataError."""

    def __init__(self, row: int, problem: str, repair: tuple[str, str] | None = None) -> None:
        super().__init__(problem)
        self.row = row
        self.repair = repair
        """What would make it usable, in words and as a change of a frame `d` of pandas; None if nobody can tell."""


class MissingValue(RowError):  # noqa: N818 - as RowError, it is turned into a DataError
    """A value that is missing, where data.missing does not say what becomes of it."""


class MissingLabel(RowError):  # noqa: N818 - as RowError, it is turned into a DataError
    """A row without a label."""


def feature_block(
    batch: pa.RecordBatch, schema: InputSchema, dtype: np.dtype[Any], unknown: UnknownCategories | None = None
) -> NDArray[Any]:
    """Return a batch's features as (n, D) numbers: of `dtype`, or a list column's own type, without a copy.

    RowError for the first null, NaN or infinity, of the columns in their order, unless missing values are filled.
    Categories that are not known set no feature, and are counted in `unknown`.
    """
    if schema.width is not None:
        (column,) = schema.inputs.columns
        block = _list_values(batch.column(column.name), column)
    else:
        block = np.empty((batch.num_rows, schema.num_features), dtype)
        place = 0
        for column in schema.inputs.columns:
            values = batch.column(column.name)
            target = block[:, place : place + column.features]
            place += column.features
            if column.kind in ("category", "hash"):
                one_hot(_places(values, column, unknown), target)
            elif column.fill is None and values.null_count:
                raise MissingValue(_first_null(values), f"null in column {shortened(column.name)!r}")
            else:
                target[:, 0] = _filled(numbers(values), column.fill)
    if block.dtype.kind == "f" and not np.isfinite(block).all():
        row, number = np.argwhere(~np.isfinite(block))[0]
        kind = MissingValue if np.isnan(block[row, number]) else RowError
        raise kind(int(row), f"{block[row, number]} in column {shortened(schema.feature_names[number])!r}")
    return block


def numbers(values: pa.Array) -> NDArray[Any]:
    """Return a column's numbers (n,), NaN where one is null."""
    if pa.types.is_decimal(values.type):
        values = values.cast(pa.float64())
    if pa.types.is_boolean(values.type) and values.null_count:
        values = values.cast(pa.uint8())
    return np.asarray(values.to_numpy(zero_copy_only=False))


def _filled(values: NDArray[Any], fill: float | None) -> NDArray[Any]:
    if fill is None or values.dtype.kind != "f":
        return values
    return np.where(np.isnan(values), values.dtype.type(fill), values)


class UnknownCategories:
    """Counts values that the training rows do not have, by column."""

    def __init__(self) -> None:
        self._rows: Counter[str] = Counter()
        self._seen: dict[str, dict[str, None]] = {}

    def add(self, column: str, values: Sequence[Any], rows: int) -> None:
        """Count so many rows that have one of these values."""
        self._rows[column] += rows
        seen = self._seen.setdefault(column, {})
        for value in values[: SHOWN + 1]:
            if len(seen) <= SHOWN:
                seen[repr(value)[:60]] = None

    def notices(self, location: str, thing: str = "held-out row") -> tuple[str, ...]:
        """Return a line for each column that has some; a row is called a `thing`."""
        return tuple(
            f"warning: {location}: {rows:,} {thing}{'s' * (rows > 1)} ha{'ve' if rows > 1 else 's'} a value in "
            f"column {shortened(name)!r} that no training row has, which sets none of its features: "
            f"{', '.join(list(self._seen[name])[:SHOWN])}{', ...' * (len(self._seen[name]) > SHOWN)}"
            for name, rows in self._rows.items()
        )


SHOWN = 5
"""Unknown categories that a notice names."""


def _places(values: pa.Array, column: Column, unknown: UnknownCategories | None) -> NDArray[np.int64]:
    """Return the number of each row's feature (n,) within a category, -1 for none."""
    codes, found = coded(values)
    if len(codes) and not column.missing and (codes < 0).any():
        raise MissingValue(int(np.argmax(codes < 0)), f"null in column {shortened(column.name)!r}")
    if column.kind == "hash":
        table = np.array([zlib.crc32(str(v).encode()) % column.width for v in found] + [-1], np.int64)
        return table[codes]
    place = {category: number for number, category in enumerate(column.categories)}
    table = np.array([place.get(value, -1) for value in found] + [-1], np.int64)
    numbers = table[codes]
    if unknown is not None:
        strange = [i for i in range(len(found)) if table[i] < 0]
        rows = int(((numbers < 0) & (codes >= 0)).sum()) if strange else 0
        if rows:
            used = set(codes.tolist())
            unknown.add(column.name, [found[i] for i in strange if i in used], rows)
    return numbers


def coded(values: pa.Array) -> tuple[NDArray[np.int64], list[Any]]:
    """Return a category's values as codes (n,), -1 for null, and what these stand for: text or integers."""
    if isinstance(values, pa.DictionaryArray):
        values = values.dictionary_decode()  # a dictionary may hold a value twice, or a null
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.int64())
    encoded = values.dictionary_encode()
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return codes, encoded.dictionary.to_pylist()


def _list_values(values: pa.Array, column: Column) -> NDArray[Any]:
    """Return a list column's values (n, D); RowError for a null, or a list of another length."""
    name, width = column.name, column.width
    if isinstance(values, pa.ExtensionArray):
        values = values.storage
    if values.null_count:
        raise MissingValue(_first_null(values), f"null in column {shortened(name)!r}")
    if not pa.types.is_fixed_size_list(values.type):
        lengths = values.value_lengths().to_numpy()
        wrong = np.flatnonzero(lengths != width)
        if wrong.size:
            raise RowError(
                int(wrong[0]),
                f"a list of {counted(int(lengths[wrong[0]]), 'value')} in column {shortened(name)!r}, not {width}",
            )
    elements = values.flatten()
    if elements.null_count and column.fill is None:
        place = _first_null(elements)
        raise MissingValue(place // width, f"null in column {shortened(name)!r}, element {place % width}")
    return _filled(numbers(elements), column.fill).reshape(-1, width)


def _first_null(column: pa.Array) -> int:
    return int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])


def storage_dtype(schema: InputSchema) -> np.dtype[Any]:
    """Return what rows are kept as in memory: a common integer type of at most two bytes, or else float32."""
    kinds = [np.dtype(np.uint8) if kind.kind == "b" else kind for kind in set(schema.stored_types)]
    common = np.result_type(*kinds)
    if all(kind.kind in "iu" for kind in kinds) and common.itemsize <= 2 and not _fills(schema) - {None, 0.0}:
        return common
    return np.dtype(np.float32)


def fits_float32(schema: InputSchema) -> bool:
    """Return whether float32 holds every value of the feature columns exactly, and what missing ones become."""
    return all(np.can_cast(kind, np.float32) for kind in set(schema.stored_types)) and not _fills(schema) - {None, 0.0}


def exact_in_float32(schema: InputSchema) -> NDArray[np.bool_]:
    """Return which features (D,) float32 holds exactly, with what missing ones become."""
    columns = schema.inputs.columns
    exact = [
        np.can_cast(kind, np.float32) and column.fill in (None, 0.0)
        for kind, column in zip(schema.stored_types, columns, strict=True)
    ]
    return np.repeat(exact, [column.features for column in columns])


def _fills(schema: InputSchema) -> set[float | None]:
    return set() if schema.fitted is None else {column.fill for column in schema.fitted.columns}
