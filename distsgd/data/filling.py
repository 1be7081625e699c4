"""The order in which the arrays of rows are filled and normalised.

Rows are read once, straight into the arrays that are kept. Only for `standard`, columns of a type that float32 cannot
hold (float64, integers of four bytes and more) are read twice: their statistics have to be known before a value is
rounded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from distsgd.core.inputs import Inputs
from distsgd.core.names import shortened
from distsgd.core.scaling import block_rows
from distsgd.data.columns import (
    RowError,
    UnknownCategories,
    exact_in_float32,
    feature_block,
    fits_float32,
    storage_dtype,
)
from distsgd.data.normalization import Normalization
from distsgd.data.refusals import refusal
from distsgd.data.row_builder import RowBuilder
from distsgd.data.schema import InputSchema
from distsgd.data.sources import Source
from distsgd.data.statistics import FAST, Statistics
from distsgd.data.targets import TargetEncoder
from distsgd.errors import DataError
from distsgd.system.memory import memory_limit


def fill_training(
    source: Source,
    encoder: TargetEncoder,
    train: RowBuilder,
    val: RowBuilder | None,
    normalize: Literal["none", "unit", "standard"],
    statistics: Statistics = FAST,
) -> Normalization:
    """Fill both parts of the training source with features and label codes; return the training rows' normalisation.

    Integers of at most two bytes are left as they were stored; all else is normalised.
    """
    parts = [part for part in (train, val) if part]
    keep = train.X.dtype.kind in "iu"
    normalization = None
    unknown = UnknownCategories()
    later = np.zeros(source.schema.num_features, bool)  # features whose statistics are taken from the filled arrays
    if normalize != "standard":
        normalization = _by_type(source.schema, normalize)
    else:
        first = _to_scan(source.schema)
        normalization = _scan(source, encoder, train, first, statistics) if first.any() else None
        later = source.schema.measured & ~first
    for X, y in _examples(source, encoder, unknown):
        for part in parts:
            part.append(X, y, None if keep else normalization)
    if val:
        val.notices = unknown.notices(source.location)
    if normalization is None or later.any():
        weights = train.relative_weights(statistics)
        measured = _Measured(source.schema, later, statistics, weighted=weights is not None)
        measured.add(train.X, weights)
        found = measured.normalization()
        if not keep:
            for part in parts:
                found.apply(part.X, out=part.X)
        normalization = found if normalization is None else normalization.beside(found)
    if keep:
        return normalization.rounded()
    for part in parts:
        part.check_finite()
    if normalize != "standard" and not fits_float32(source.schema):
        _check_nonzero(source, encoder, train)
    return normalization


def fill_held_out(
    source: Source, encoder: TargetEncoder, normalization: Normalization, dtype: np.dtype[Any]
) -> RowBuilder:
    """Return all rows of a held-out source, kept as the training rows' `dtype` and normalised as they were."""
    part = RowBuilder(source, np.ones(source.num_rows, bool), encoder, dtype)
    keep = dtype.kind in "iu"
    unknown = UnknownCategories()
    for X, y in _examples(source, encoder, unknown):
        part.append(X, y, None if keep else normalization)
    part.notices = unknown.notices(source.location)
    if not keep:
        part.check_finite()
    return part


def check_memory(*sources: Source | None) -> None:
    """Refuse rows that would not fit into memory."""
    needed = sum(source.num_rows * _row_bytes(source) for source in sources if source)
    there = memory_limit()
    if needed > there:
        location = " and ".join(source.location for source in sources if source)
        raise DataError(
            f"the rows of {location} need {needed / 2**30:.1f} GiB of memory, and this process may use "
            f"{there / 2**30:.1f}; take fewer rows or features, or store them as a smaller integer type"
        )


def _row_bytes(source: Source) -> int:
    """Return the bytes of a row's features, target and weight."""
    schema = source.schema
    several = schema.label_kind in ("labels", "numbers")
    target = 4 * (schema.label_width or len(schema.labels)) if several else 8
    weight = 0 if source.weights is None else 4
    return storage_dtype(schema).itemsize * schema.num_features + target + weight


def _by_type(schema: InputSchema, normalize: Literal["none", "unit"]) -> Normalization:
    """Return the normalisation that depends on the columns' types alone."""
    kinds = schema.feature_types
    scale = np.ones(len(kinds))
    if normalize == "unit":
        scale /= [1 if kind.kind == "b" else np.iinfo(kind).max for kind in kinds]
    return Normalization(np.zeros(len(kinds)), scale)


class _Measured:
    """Zero mean and unit variance for some of the features that are measured; all others stay as they are.

    The 0 and 1 of categories are never measured: a rare one would become a large number, and its weights diverge.
    """

    def __init__(self, schema: InputSchema, chosen: NDArray[np.bool_], by: Statistics, *, weighted: bool) -> None:
        self._measured = np.flatnonzero(chosen)
        self._names = schema.feature_names
        total = int(schema.measured.sum())
        self._moments = by.moments(len(self._measured), total, weighted=weighted) if len(self._measured) else None

    def add(self, rows: NDArray[Any], weights: NDArray[np.float64] | None) -> None:
        """Add rows (n, D) with weights (n,), in blocks, so that no copy of all rows is made."""
        if self._moments is None:
            return
        if len(self._measured) == len(self._names):
            self._moments.add(rows, weights)
            return
        for start in range(0, len(rows), BLOCK_ROWS):
            block = slice(start, start + BLOCK_ROWS)
            self._moments.add(rows[block, self._measured], None if weights is None else weights[block])

    def add_chosen(self, rows: NDArray[Any], weights: NDArray[np.float64] | None) -> None:
        """Add rows (n, d) of the d features that are measured, with weights (n,)."""
        if self._moments is not None:
            self._moments.add(rows, weights)

    def normalization(self) -> Normalization:
        """Return the normalisation of all features."""
        shift, scale = np.zeros(len(self._names)), np.ones(len(self._names))
        if self._moments is not None:
            found = self._moments.normalization(tuple(self._names[i] for i in self._measured))
            shift[self._measured], scale[self._measured] = found.shift, found.scale
        return Normalization(shift, scale)


BLOCK_ROWS = 4096
"""Rows whose numbers are picked out from between categories at a time."""


def _to_scan(schema: InputSchema) -> NDArray[np.bool_]:
    """Return the measured features (D,) whose statistics take reading the rows once more.

    Those that float32 cannot hold; but if they are the most, all of them, which saves normalising in two goes.
    """
    inexact = schema.measured & ~exact_in_float32(schema)
    return schema.measured if 2 * inexact.sum() > schema.measured.sum() else inexact


def _scan(
    source: Source, encoder: TargetEncoder, train: RowBuilder, features: NDArray[np.bool_], statistics: Statistics
) -> Normalization:
    """Return zero mean and unit variance of some features in the training rows of a source, read for that alone."""
    weights, start, done = train.relative_weights(statistics), 0, 0
    measured = _Measured(source.schema, features, statistics, weighted=weights is not None)
    for X, y in _examples(source, encoder, schema=_only(source.schema, features)):
        part = X[train.chosen[start : start + len(y)]]
        measured.add_chosen(part, None if weights is None else weights[done : done + len(part)])
        start, done = start + len(y), done + len(part)
    return measured.normalization()


def _only(schema: InputSchema, features: NDArray[np.bool_]) -> InputSchema:
    """Return the schema with some columns alone: those of the marked features (D,), which are all of a column's."""
    columns, place = [], 0
    for column in schema.inputs.columns:
        if features[place]:
            columns.append(column)
        place += column.features
    types = dict(zip(schema.columns, schema.types, strict=True))
    names = tuple(column.name for column in columns)
    return dataclasses.replace(
        schema,
        columns=names,
        types=tuple(types[name] for name in names),
        categorical=schema.categorical & set(names),
        fitted=Inputs(tuple(columns)),
    )


def _check_nonzero(source: Source, encoder: TargetEncoder, train: RowBuilder) -> None:
    """Refuse a column that became 0 in all rows when it was rounded to float32, although it is not."""
    zero, count = np.arange(train.X.shape[1]), block_rows(train.X.shape[1])
    for start in range(0, len(train.X), count):
        zero = zero[~train.X[start : start + count, zero].any(axis=0)]
        if not len(zero):
            return
    for X, _ in _examples(source, encoder):
        lost = zero[X[:, zero].any(axis=0)]
        if len(lost):
            name = shortened(source.schema.feature_names[lost[0]])
            raise DataError(
                f"the values of feature {name!r} are so small that all of them are 0 "
                "in float32; set data.normalize=standard, rescale that column, or leave it out of data.features"
            )


def _examples(
    source: Source,
    encoder: TargetEncoder,
    unknown: UnknownCategories | None = None,
    schema: InputSchema | None = None,
) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Yield a source's rows in order, in batches: features (n, D), checked, and targets (n, ...).

    With `schema` only its columns are read.
    """
    schema = schema or source.schema
    dtype = storage_dtype(source.schema) if fits_float32(source.schema) else np.dtype(np.float64)
    for batch in source.batches([*schema.columns, *schema.labels]):
        try:
            X = feature_block(batch.table, schema, dtype, unknown)
            y = encoder.encode_rows(batch.table)
        except RowError as problem:
            raise refusal(batch, problem) from None
        yield X, y
