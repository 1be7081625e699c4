"""Upper bounds of the lengths of a matrix's columns, which do not depend on any order of addition."""

from __future__ import annotations

import itertools
from types import ModuleType
from typing import Any

import numpy as np

from distsgd.core.portable.bounds import halved

Array = Any
"""A NumPy or a CuPy array."""

BLOCK = 2**15
"""Numbers whose squares are added in halves."""

BLOCKS = 8
"""Blocks that are computed at a time: as float32 they take 1 MB."""


def column_squares(W: Array, xp: ModuleType, factors: Array | None = None) -> Array:
    """Return upper bounds (k,) float64 of Σ_i W_ij² for W (m, k) float32, or of Σ_i (f_i W_ij)² with factors f (m,).

    Squares are added in float32, block by block of rows and in halves within a block. Each of a number's roundings, of
    which there are fewer than 24 + mk/BLOCK, is at most 2^-24 of it, or 2^-150 where it is small; the bounds are higher
    by more than that. They are infinite where a square is.
    """
    m, k = W.shape
    rows = max(1, BLOCK // k)
    total = xp.zeros(k, xp.float32)
    whole = m // rows * rows
    starts = [*range(0, whole, rows * BLOCKS), whole]
    parts = [slice(start, stop) for start, stop in itertools.pairwise(starts)] + [slice(whole, m)] * (whole < m)
    with np.errstate(over="ignore", under="ignore"):
        for part in parts:
            block = W[part]
            if factors is not None:
                block = (block * factors[part, None]).astype(xp.float32)
            squares = xp.multiply(block, block)
            if len(squares) <= rows:
                total += halved(squares)
                continue
            for sums in _halved_blocks(squares.reshape(-1, rows, k), xp):
                total += sums
    found = total.astype(xp.float64)
    found *= 1 + 2.0**-14 * (1 + m / rows / 512)
    found += m * 2.0**-148
    return found


def _halved_blocks(blocks: Array, xp: ModuleType) -> Array:
    """Return the sums (b, k) of blocks (b, m, k), each added as `bounds.halved` adds; the blocks are overwritten."""
    m = blocks.shape[1]
    while m > 1:
        half = m // 2
        xp.add(blocks[:, :half], blocks[:, half : 2 * half], out=blocks[:, :half])
        if m % 2:
            xp.add(blocks[:, 0], blocks[:, m - 1], out=blocks[:, 0])
        m = half
    return blocks[:, 0]


def upper_root(square: float) -> float:
    """Return a number not below √square, nor by more than a few units of the last place above it."""
    return float(np.sqrt(square)) * (1 + 2.0**-50)
