"""A data set from arrays that the caller has checked, as scikit-learn's estimators check them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from distsgd.data.dataset import DataSet
from distsgd.data.normalization import BatchTransform, Normalization
from distsgd.data.rows import ArrayRows
from distsgd.data.schema import InputSchema
from distsgd.data.weights import LARGEST, SMALLEST
from distsgd.errors import DataError


def array_rows(X: NDArray[Any], y: NDArray[Any], weights: NDArray[Any] | None = None) -> ArrayRows:
    """Return rows of finite features X (N, D), in float32, with targets y as `losses.Target` says.

    A row of weight 0 is left out. DataError for a negative weight, if no row is left, or if float32 cannot hold X.
    """
    w = None
    if weights is not None:
        if (weights < 0).any():
            raise DataError(f"weight {weights.min():g} in sample_weight; expected numbers of at least 0")
        counted = weights > 0
        X, y, weights = X[counted], y[counted], weights[counted]
        if not len(X):
            raise DataError("all weights in sample_weight are 0; at least one row has to count")
        if weights.min() < SMALLEST or weights.max() > LARGEST:
            worst = weights.min() if weights.min() < SMALLEST else weights.max()
            raise DataError(f"weight {worst:g} in sample_weight; expected 0, or {SMALLEST:g} to {LARGEST:g}")
        w = np.ascontiguousarray(weights, np.float32)
    with np.errstate(over="ignore"):
        features = np.ascontiguousarray(X, np.float32)
    if X.dtype.itemsize > 4 and not np.isfinite(features).all():
        raise DataError("X has numbers that float32 cannot hold; scale the features first")
    return ArrayRows(features, np.ascontiguousarray(y), w)


def distinct(rows: ArrayRows) -> ArrayRows:
    """Return each different row once, with the sum of the weights of its repetitions, in an order of its own.

    So a few rows that form one mini-batch give the same bits in any order, and repeated as with weights.
    """
    y = rows.y.reshape(len(rows), -1)
    described = np.concatenate([rows.X.view(np.uint8), np.ascontiguousarray(y).view(np.uint8)], axis=1)
    _, first, inverse = np.unique(
        described.view(np.dtype((np.void, described.shape[1]))).ravel(), return_index=True, return_inverse=True
    )
    if len(first) == len(rows) and rows.w is None:
        return ArrayRows(rows.X[first], rows.y[first])
    weights = np.bincount(inverse, None if rows.w is None else rows.w.astype(np.float64))
    return ArrayRows(rows.X[first], rows.y[first], weights.astype(np.float32))


def array_data(train: ArrayRows, val: ArrayRows | None, outputs: int) -> DataSet:
    """Return a data set of such rows, whose classes, or other outputs, are the numbers from 0; not normalised."""
    D = train.features
    schema = InputSchema(("X",), ("float32",), D, ("y",), "integer")
    return DataSet(
        train=train,
        val=val,
        classes=np.arange(outputs),
        feature_names=(),  # naming thousands of features would take longer than an epoch
        schema=schema,
        inputs=schema.inputs,
        normalization=Normalization(np.zeros(D), np.ones(D)),
        transform=BatchTransform(),
        digest="",
        source="X",
    )
