"""How fine the grids of a product's operands may be so that no sum within it is ever rounded.

**The bound.** Let every a_i be a multiple of 2^p with Σ|a_i| ≤ 2^s, and every b_i a multiple of 2^q with |b_i| ≤ 2^m. A
product a_i b_i is a multiple of 2^(p+q), and so is each sum of some of them, in any order and grouping, because sums of
multiples are multiples. Each such sum is at most Σ|a_i b_i| ≤ 2^(s+m) in size. If

    s + m ≤ 53 + p + q                                                                                          (1)

then it is k·2^(p+q) with an integer |k| ≤ 2^53, and float64 holds these exactly as long as 2^(p+q) is no less than its
smallest number, 2^-1074, and 2^(s+m) no more than its largest. IEEE 754 rounds a result that can be held to itself; so
each product, each addition and each fused multiply-add returns the exact value, and the total does not depend on the
order, the blocking, the number of threads, or whether multiplications are fused with additions.

Where sums of several mini-batch parts are added, Σ|a_i| is taken over the whole mini-batch.
"""

from __future__ import annotations

import math

BITS = 53
"""Bits of a float64 significand."""

WIDEST = 50
"""Most bits of an operand: `grids.rounder` needs numbers below 2^51 quanta."""


def exponent(bound: float) -> int:
    """Return the smallest e for which `bound` ≤ 2^e, of a finite `bound` ≥ 0; 0 if it is 0."""
    significand, e = math.frexp(bound)
    return e - (significand == 0.5)


def finest(total: int, quantum: int, largest: int) -> int:
    """Return the smallest q that satisfies (1) of this module, for operands a and b.

    `total` is s, the exponent of a bound of Σ|a_i|; `quantum` is p, that of a's grid; `largest` is m, that of a bound
    of |b_i|. q is at least m − WIDEST, so that b can be rounded.
    """
    return max(total + largest - BITS - quantum, largest - WIDEST)


def balanced(total: int, largest_a: int, largest_b: int) -> tuple[int, int]:
    """Return p and q that satisfy (1) and give both operands about the same number of bits.

    `total` is s, the exponent of a bound of Σ|a_i|, which has to hold after rounding to 2^p; the bounds of |a_i| and
    |b_i| have the exponents `largest_a` and `largest_b`.
    """
    bits = min((BITS - (total - largest_a)) // 2, WIDEST)
    return largest_a - bits, finest(total, largest_a - bits, largest_b)
