"""Rounding to a grid, the multiples of a power of two, by two additions."""

from __future__ import annotations

from types import ModuleType
from typing import Any

Array = Any
"""A NumPy or a CuPy array."""

_EXPONENT_BITS, _FRACTION_BITS = 0x7FF0000000000000, 0x000FFFFFFFFFFFFF


def rounder(quantum: int) -> float:
    """Return M for which (x + M) − M is x rounded to a multiple of 2^quantum, ties to even, for |x| < 2^(quantum+51).

    M is 1.5·2^(52+quantum), and x + M lies between 2^(52+quantum) and twice that, where neighbouring numbers of float64
    are 2^quantum apart; the difference is exact (Dekker, "A floating-point technique for extending the available
    precision", 1971). What is not finite does not become finite. The quantum may be from 2^-1022 to 2^970.
    """
    return 1.5 * 2.0 ** (52 + quantum)


def narrow_rounder(quantum: int) -> float:
    """Return M for which (x + M) − M in float32 is x rounded as by `rounder`, if |x| ≤ 2^(quantum+NARROW_BITS).

    M is 1.5·2^(23+quantum); x + M lies between 2^(23+quantum) and twice that, where neighbours are 2^quantum apart.
    """
    return 1.5 * 2.0 ** (23 + quantum)


NARROW_BITS = 22
"""Bits below the largest number up to which float32 rounds to a grid."""


def rounded(x: Array, quantum: int, out: Array, xp: ModuleType) -> Array:
    """Write x, rounded to multiples of 2^quantum, to `out` float64, which may be x, and return it."""
    M = rounder(quantum)
    xp.add(x, M, out=out)
    return xp.subtract(out, M, out=out)


def row_rounders(h: Array, bits: int, out: Array, xp: ModuleType, *, negative: bool = True) -> Array:
    """Write to `out` (n, 1) what `rounder` returns for each row of h (n, H), for `bits` bits below its largest |h|.

    The row's bound is the smallest power of two that is not below its largest |h|; a row of zeros has M = 0, which
    leaves zeros. Row maxima do not depend on an order. `negative` says whether numbers below 0 are possible.
    """
    column = out[:, 0]
    h.max(axis=1, out=column)
    if negative:
        below = h.min(axis=1)
        xp.negative(below, out=below)
        xp.maximum(column, below, out=column)
    pattern = column.view(xp.int64)
    xp.add(pattern, _FRACTION_BITS, out=pattern)  # carries into the exponent unless the fraction is 0
    xp.bitwise_and(pattern, _EXPONENT_BITS, out=pattern)
    xp.multiply(column, 1.5 * 2.0 ** (52 - bits), out=column)
    return out


def largest(values: Array) -> float:
    """Return the largest absolute value of an array; NaN if there is one, 0 for an empty array."""
    return max(float(values.max()), -float(values.min())) if values.size else 0.0
