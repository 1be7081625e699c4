"""Training rows as they were in the files, from those that are kept, which are normalised: a model's input example."""

from __future__ import annotations

from typing import Any

import numpy as np

from distsgd.core.inputs import CATEGORY_TYPES, Column
from distsgd.data import DataSet, Normalization

FLOAT32_DIGITS = 7
"""Significant digits that a float64 number keeps when it is normalised and stored as float32."""


def rows_as_in_files(data: DataSet, count: int) -> list[list[Any]]:
    """Return the first training rows, a value for each column, to float32's precision; none if a column was hashed."""
    if any(column.kind == "hash" for column in data.inputs.columns):
        return []  # a bucket stands for many values
    count = min(count, len(data.train))
    X = np.empty((count, data.train.features), data.train.dtype)
    data.train.gather(np.arange(count), X, None)
    columns, start = [], 0
    for column in data.inputs.columns:
        features = range(start, start + column.features)
        start += column.features
        if column.kind == "category":
            columns.append(_categories(column, [_raw(data.normalization, X, feature) for feature in features]))
        else:
            values = [_as_in_file(data.normalization, X, feature, np.dtype(column.dtype)) for feature in features]
            columns.append([list(row) for row in zip(*values, strict=True)] if column.kind == "list" else values[0])
    return [list(row) for row in zip(*columns, strict=True)]


def _categories(column: Column, features: list[np.ndarray]) -> list[Any]:
    """Return the values (n,) of a category whose features (n,) are given; None if none of them is 1."""
    kind = bool if column.dtype == "bool" else CATEGORY_TYPES[column.dtype]
    rows = np.stack(features, axis=1)
    return [kind(column.categories[row.argmax()]) if row.max() > 0.5 else None for row in rows]


def _raw(normalization: Normalization, X: np.ndarray, feature: int) -> np.ndarray:
    """Return a feature of stored rows X (n, D) as it was before it was normalised."""
    x: np.ndarray = X[:, feature]
    if x.dtype.kind == "f":  # it was normalised when it was read
        with np.errstate(over="ignore"):
            x = x.astype(np.float64) / normalization.scale[feature] + normalization.shift[feature]
    return x


def _as_in_file(
    normalization: Normalization, X: np.ndarray, feature: int, kind: np.dtype[Any]
) -> list[bool | int | float]:
    """Return a feature of stored rows X (n, D), to float32's precision, as values of its type in the files."""
    x = _raw(normalization, X, feature)
    if kind.kind == "f":
        x = x.clip(np.finfo(kind).min, np.finfo(kind).max)
        if kind.itemsize == 8:
            x = np.array([float(f"{value:.{FLOAT32_DIGITS}g}") for value in x])
    else:
        x = x.round()
    found: list[bool | int | float] = x.astype(kind).tolist()
    return found
