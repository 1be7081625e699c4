"""Weights of rows and of classes.

A row of weight 0 is left out before anything else is done with the rows: the split, the order, the statistics and the
classes are those of a table without it. All other weights count wherever rows are counted: in the sums of losses and
gradients, in the statistics of normalisation and the means that missing values become (a row of weight 2 is two rows),
and in the metrics of held-out rows. The weights of classes go into losses and gradients alone: they say what mistakes
cost, and not how many rows there are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from distsgd.core.names import shortened
from distsgd.data.datafile import as_problem
from distsgd.data.sources import Source, SourceBatch
from distsgd.data.statistics import FAST, Statistics
from distsgd.data.unusable import listing
from distsgd.errors import DataError, counted, nearest

SMALLEST, LARGEST = 1e-20, 1e20
"""Bounds of a weight above 0: sums of weighted gradients have to fit into float32."""

EXPECTED = f"0, which leaves the row out, or a number from {SMALLEST:g} to {LARGEST:g}"

ClassWeight = Literal["balanced"] | Mapping[str, float]

Weights = NDArray[np.float32]


def weighted(source: Source) -> Source:
    """Return the source without its rows of weight 0, and with the weights of the others, if it has a weight column."""
    name = source.schema.weight
    if name is None:
        return source
    with as_problem("weight"):
        rows = np.concatenate([weights_of(batch, name) for batch in source.batches([name])])
        return _counting(source, rows, f"every weight in column {shortened(name)!r}")


def with_weights(source: Source, weights: NDArray[np.float64]) -> Source:
    """Return the source without its rows of weight 0, and with the others' weights, for those (N,) of all its rows."""
    if len(weights) != source.num_rows:
        raise DataError(
            f"{source.location} has {counted(source.num_rows, 'row')} and sample_weight has "
            f"{counted(len(weights), 'weight')}; expected one for each row"
        )
    bad = _unusable(weights)
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(f"{source.place(row)}: weight {weights[row]:g} in sample_weight; expected {EXPECTED}")
    return _counting(source, weights.astype(np.float32), "every weight in sample_weight")


def _counting(source: Source, weights: Weights, which: str) -> Source:
    """Return the source with the rows whose weight of `weights` (N,) is not 0."""
    kept = weights > 0
    if not kept.any():
        raise DataError(
            f"{source.location}: {which} is 0, which leaves all rows out; expected rows with a weight above 0"
        )
    return dataclasses.replace(source, weights=weights[kept], kept=None if kept.all() else kept)


def _unusable(weights: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which of some weights (n,) are none: neither 0 nor within the bounds."""
    found: NDArray[np.bool_] = ~((weights == 0) | ((weights >= SMALLEST) & (weights <= LARGEST)))
    return found


def weights_of(batch: SourceBatch, name: str) -> Weights:
    """Return the weights (n,) of a batch's rows, which the column `name` has; DataError for one that cannot be."""
    column = batch.table.column(name)
    weights = _numbers(column)
    bad = _unusable(weights)
    if bad.any():
        row = int(np.argmax(bad))
        found = column[row].as_py()
        raise batch.error(
            row, f"weight {'null' if found is None else found} in column {shortened(name)!r}; expected {EXPECTED}"
        )
    return weights.astype(np.float32)


def _numbers(column: pa.Array) -> NDArray[np.float64]:
    """Return a column's numbers (n,), NaN where one is missing."""
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.uint8())
    return np.asarray(column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False))


def relative(weights: Weights, statistics: Statistics = FAST) -> NDArray[np.float64]:
    """Return weights (n,) whose mean is 1, so that weighted sums of squares neither overflow nor vanish."""
    found = weights.astype(np.float64)
    found /= statistics.summed(found) / len(found)
    return found


def with_class_weights(
    weights: Weights | None,
    y: NDArray[np.int64],
    classes: NDArray[Any],
    class_weight: ClassWeight,
    statistics: Statistics = FAST,
) -> Weights:
    """Return the weights (N,) of rows with the classes y (N,), each multiplied by that of its class.

    `balanced` is N / (C · N_c), as scikit-learn has it, where N_c is the weight of a class's rows and N that of all. A
    class that a table does not name has weight 1. DataError for a name that is no class.
    """
    factors = np.ones(len(classes))
    if class_weight == "balanced":
        sums = np.bincount(y, weights, len(classes)).astype(np.float64)
        factors = np.divide(statistics.summed(sums), len(classes) * sums, out=factors, where=sums > 0)
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
