"""Predictions as columns: those that were carried along, then `prediction` and `probabilities`."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from distsgd.errors import DataError

PREDICTION, PROBABILITIES = "prediction", "probabilities"
"""Names of the columns: the most probable class, and a list of float32 in the order of the model's classes."""

CLASSES = b"distsgd.classes"
"""Key of the classes, a JSON list, in the metadata of the schema."""


def schema(kept: pa.Schema, classes: NDArray[np.generic]) -> pa.Schema:
    """Return the columns of the predictions of a model with these classes; DataError if a kept one has their name."""
    for name in (PREDICTION, PROBABILITIES):
        if name in kept.names:
            raise DataError(f"a column to keep is called {name!r}, as what is predicted is; rename it in the data")
    label = pa.string() if classes.dtype.kind == "U" else pa.int64()
    fields: Sequence[pa.Field] = [
        *kept,
        pa.field(PREDICTION, label, nullable=False),
        pa.field(PROBABILITIES, pa.list_(pa.field("element", pa.float32(), nullable=False)), nullable=False),
    ]
    return pa.schema(fields, metadata={CLASSES: json.dumps(classes.tolist()).encode()})


def table(
    kept: pa.Table, predicted: NDArray[np.generic], probabilities: NDArray[np.float32], to: pa.Schema
) -> pa.Table:
    """Return rows of the schema `to` from columns carried along, classes (n,) and probabilities (n, C)."""
    rows, width = probabilities.shape
    offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * width)
    lists = pa.ListArray.from_arrays(offsets, pa.array(probabilities.ravel()), type=to.field(PROBABILITIES).type)
    labels = pa.array(predicted, to.field(PREDICTION).type)
    return pa.Table.from_arrays([*kept.columns, labels, lists], schema=to)
