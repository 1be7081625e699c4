"""The bounds of a data set's features, weights and targets, which exact sums over its rows need to know."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from distsgd.core.portable.bounds import DataBounds
from distsgd.data.gatherer import exact_gatherer
from distsgd.data.normalization import BatchTransform
from distsgd.data.rows import Rows

BLOCK_BYTES = 2**22
"""Bytes of features that are looked at together."""


class RunBounds(NamedTuple):
    """The bounds of all rows of a run, whoever has which of them."""

    train: DataBounds
    val: DataBounds | None
    """None if no rows are held out."""


def bounds_of(rows: Rows, transform: BatchTransform) -> DataBounds:
    """Return the bounds of rows as the net gets them; they do not depend on the rows' order."""
    count = max(1, min(len(rows), BLOCK_BYTES // (4 * rows.features)))
    gatherer, factor = exact_gatherer(rows, transform, count, "cpu")
    found: DataBounds | None = None
    for start in range(0, len(rows), count):
        X, y, weights = gatherer.gather(np.arange(start, min(start + count, len(rows))))
        block = DataBounds.of(X, y, weights, factor)
        found = block if found is None else found.merged(block)
    assert found is not None, "a run has rows"
    return found
