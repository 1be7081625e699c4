"""Weights of rows and of classes.

A row of weight 0 is left out before anything else is done with the rows: the split, the order, the statistics and the
classes are those of a table without it. Other weights go into the sums of losses and gradients alone: the statistics of
normalisation, and the means that missing values become, count each row once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from distsgd.core.names import shortened
from distsgd.data.sources import Source, SourceBatch
from distsgd.data.unusable import listing
from distsgd.errors import DataError, nearest

SMALLEST, LARGEST = 1e-20, 1e20
"""Bounds of a weight above 0: sums of weighted gradients have to fit into float32."""

ClassWeight = Literal["balanced"] | Mapping[str, float]

Weights = NDArray[np.float32]


def weighted(source: Source) -> Source:
    """Return the source without its rows of weight 0, and with the weights of the others, if it has a weight column."""
    name = source.schema.weight
    if name is None:
        return source
    rows = np.concatenate([weights_of(batch, name) for batch in source.batches([name])])
    kept = rows > 0
    if not kept.any():
        raise DataError(
            f"{source.location}: every weight in column {shortened(name)!r} is 0, which leaves all rows out; expected "
            "rows with a weight above 0"
        )
    return dataclasses.replace(source, weights=rows[kept], kept=None if kept.all() else kept)


def weights_of(batch: SourceBatch, name: str) -> Weights:
    """Return the weights (n,) of a batch's rows, which the column `name` has; DataError for one that cannot be."""
    column = batch.table.column(name)
    weights = _numbers(column)
    bad = ~((weights == 0) | ((weights >= SMALLEST) & (weights <= LARGEST)))
    if bad.any():
        row = int(np.argmax(bad))
        found = column[row].as_py()
        raise batch.error(
            row,
            f"weight {'null' if found is None else found} in column {shortened(name)!r}; expected 0, which leaves "
            f"the row out, or a number from {SMALLEST:g} to {LARGEST:g}",
        )
    return weights.astype(np.float32)


def _numbers(column: pa.Array) -> NDArray[np.float64]:
    """Return a column's numbers (n,), NaN where one is missing."""
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.uint8())
    return np.asarray(column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False))


def with_class_weights(
    weights: Weights | None, y: NDArray[np.int64], classes: NDArray[Any], class_weight: ClassWeight
) -> Weights:
    """Return the weights (N,) of rows with the classes y (N,), each multiplied by that of its class.

    `balanced` is N / (C · N_c), as scikit-learn has it, where N_c is the weight of a class's rows and N that of all. A
    class that a table does not name has weight 1. DataError for a name that is no class.
    """
    factors = np.ones(len(classes))
    if class_weight == "balanced":
        sums = np.bincount(y, weights, len(classes)).astype(np.float64)
        factors = np.divide(sums.sum(), len(classes) * sums, out=factors, where=sums > 0)
    else:
        places = {str(label): number for number, label in enumerate(classes.tolist())}
        for name, factor in class_weight.items():
            if name not in places:
                near = nearest(shortened(name), map(shortened, places))
                raise DataError(
                    f"train.class_weight names {shortened(name)!r}{near}, which is no class; the classes are "
                    f"{listing(list(places))}: correct it"
                )
            factors[places[name]] = factor
    with np.errstate(over="ignore", under="ignore"):  # which is refused
        of_rows = factors.astype(np.float32)[y]
        found: Weights = of_rows if weights is None else weights * of_rows
    bad = (found < np.float32(SMALLEST)) | (found > np.float32(LARGEST))
    if bad.any():
        name = shortened(str(classes[y[np.argmax(bad)]]))
        raise DataError(
            f"train.class_weight gives a row of class {name!r} the weight {found[np.argmax(bad)]:g}; expected "
            f"{SMALLEST:g} to {LARGEST:g}: choose weights nearer to 1"
        )
    return found
