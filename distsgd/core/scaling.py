"""`(X - shift) * scale` in float64, rounded to float32 once, block by block.

This file is copied into every model that is logged to MLflow, so it needs NumPy alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK_BYTES = 2**20
"""Bytes of a float64 block of rows: small enough to stay in a core's cache between two passes over it."""


def block_rows(width: int) -> int:
    """Return the rows of a block of (rows, width) float64; a function of the width alone, so that sums are too."""
    return max(1, BLOCK_BYTES // (8 * width))


def scaled(
    X: NDArray[Any], shift: NDArray[np.float64], scale: NDArray[np.float64], out: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Fill `out` (N, D), which may be X itself, with `(X - shift) * scale` for X (N, D) of any numeric type.

    What float32 cannot hold becomes infinite.
    """
    count = block_rows(len(shift))
    buffer = np.empty((min(count, len(X)), len(shift)))
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(X), count):
            rows = X[start : start + count]
            block = buffer[: len(rows)]
            np.subtract(rows, shift, out=block, dtype=np.float64)
            block *= scale
            out[start : start + count] = block
    return out
