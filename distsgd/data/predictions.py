"""Predictions as columns: those that were carried along, then `prediction` and `probabilities`."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from distsgd.core.predictor import Predictor
from distsgd.errors import DataError

PREDICTION, PROBABILITIES = "prediction", "probabilities"
"""Names of the columns: what is predicted (a list if there are several labels or numbers), and a list of float32 in the
order of the model's classes or labels, if the model has probabilities."""

CLASSES = b"distsgd.classes"
"""Key of the classes, a JSON list, in the metadata of the schema."""


def schema(kept: pa.Schema, predictor: Predictor) -> pa.Schema:
    """Return the columns of the predictions of a model; DataError if a kept one has their name."""
    for name in (PREDICTION, PROBABILITIES):
        if name in kept.names:
            raise DataError(f"a column to keep is called {name!r}, as what is predicted is; rename it in the data")
    classes, loss = predictor.classes, predictor.loss
    value = pa.float32() if loss.target == "numbers" else pa.int64()
    if loss.target == "class":
        kind = pa.string() if classes.dtype.kind == "U" else value
    else:
        kind = value if len(classes) == 1 else pa.list_(pa.field("element", value, nullable=False))
    fields: Sequence[pa.Field] = [
        *kept,
        pa.field(PREDICTION, kind, nullable=False),
    ]
    if loss.has_probabilities:
        lists = pa.list_(pa.field("element", pa.float32(), nullable=False))
        fields = [*fields, pa.field(PROBABILITIES, lists, nullable=False)]
    return pa.schema(fields, metadata={CLASSES: json.dumps(classes.tolist()).encode()})


def table(kept: pa.Table, predicted: NDArray[np.generic], outputs: NDArray[np.float32], to: pa.Schema) -> pa.Table:
    """Return rows of the schema `to` from columns carried along and what `Predictor.predict_both` returns."""
    found = [_column(predicted, to.field(PREDICTION).type)]
    if PROBABILITIES in to.names:
        found.append(_column(outputs, to.field(PROBABILITIES).type))
    return pa.Table.from_arrays([*kept.columns, *found], schema=to)


def _column(values: NDArray[np.generic], kind: pa.DataType) -> pa.Array:
    """Return values (n,) or, as lists, (n, C)."""
    if values.ndim == 1:
        return pa.array(values, kind)
    rows, width = values.shape
    offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * width)
    return pa.ListArray.from_arrays(offsets, pa.array(values.ravel()), type=kind)
