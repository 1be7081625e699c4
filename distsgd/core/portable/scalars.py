"""Powers, exp, log and cos of Python's floats, the same on every machine: no libm.

Python's floats are IEEE 754's, and their + − × ÷ are separate operations. exp and log come from `decimal`, which
specifies that their results are correctly rounded; they are rounded to float64 once more.
"""

from __future__ import annotations

import decimal
import functools

_CONTEXT = decimal.Context(prec=30, rounding=decimal.ROUND_HALF_EVEN, Emax=999999, Emin=-999999)

_PI = 3.141592653589793


def power(base: float, n: int) -> float:
    """Return base^n for an integer n ≥ 0, by squaring; at most 2·log₂ n roundings, each doubled by later squares."""
    result = 1.0
    while n:
        if n & 1:
            result *= base
        n >>= 1
        if n:
            base *= base
    return result


def power_of_ratio(top: float, bottom: float, exponent: float) -> float:
    """Return (top / bottom)^exponent of positive numbers."""
    logarithm = _log_of_ratio(top, bottom)
    return float(_CONTEXT.exp(_CONTEXT.multiply(decimal.Decimal(exponent), logarithm)))


@functools.lru_cache(maxsize=64)
def _log_of_ratio(top: float, bottom: float) -> decimal.Decimal:
    return _CONTEXT.ln(_CONTEXT.divide(decimal.Decimal(top), decimal.Decimal(bottom)))


def cos_of_half_turns(x: float) -> float:
    """Return cos(πx) for x from 0 to 1, by the Taylor series of cos or sin up to π/4."""
    if x > 0.5:
        return -cos_of_half_turns(1.0 - x)
    if x > 0.25:
        angle = _PI * (0.5 - x)
        return _series(angle * angle, 1) * angle
    angle = _PI * x
    return _series(angle * angle, 0)


def _series(square: float, first: int) -> float:
    """Return Σ_k (−square)^k / (2k + first)!, to degree 18 in the angle."""
    total = 0.0
    for k in range(9, -1, -1):
        total = 1.0 - total * square / ((2 * k + first + 1) * (2 * k + first + 2))
    return total
