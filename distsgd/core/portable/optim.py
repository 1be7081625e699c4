"""Exact norms: for clipping by the gradient's norm, and for the L2 term of the loss.

The square of a float32 number is exact in float64. Squares are added without an error by extraction (Rump, Ogita and
Oishi, "Accurate floating-point summation, part I", 2008): all are rounded to multiples of a common power of two, whose
sum has at most 53 bits, and what was rounded off is treated likewise, until nothing is left. The sum is given as these
few numbers, so `math.fsum` of those of all blocks is the exact sum, rounded once, however parameters are cut into
blocks.
"""

from __future__ import annotations

import math
from types import ModuleType

from distsgd.core.net import Array, Net
from distsgd.core.optim import BLOCK, add_decay, weight_blocks
from distsgd.core.portable.grids import largest, rounded

PARTS = 16
"""Numbers that `squares` returns: each takes 36 bits of 2^-298 to 2^256, the range of squares of float32."""

_BITS = 52 - (BLOCK - 1).bit_length()
"""BLOCK multiples of a quantum, each at most 2^_BITS of it, have a sum of at most 2^52 quanta."""


def squares(values: Array, xp: ModuleType) -> list[float]:
    """Return PARTS numbers whose exact sum is that of the squares of `values` (n,) float32, n ≤ BLOCK.

    If one of the values is not finite, the first number is NaN.
    """
    left = values.astype(xp.float64)
    xp.multiply(left, left, out=left)
    parts: list[float] = []
    upper = xp.empty_like(left)
    while top := largest(left):
        if not math.isfinite(top):
            return [math.nan, *[0.0] * (PARTS - 1)]
        rounded(left, math.frexp(top)[1] - _BITS, upper, xp)
        parts.append(float(upper.sum()))
        xp.subtract(left, upper, out=left)
    return parts + [0.0] * (PARTS - len(parts))


def squared_norm(
    total: Array,
    total_weight: float,
    weights: Array,
    *,
    biases: tuple[slice, ...],
    l2: float,
    scratch: Array,
    xp: ModuleType,
) -> list[float]:
    """Return numbers whose exact sum is ‖total / total_weight + 2·l2·weights‖² of one block; see optim.squared_norm.

    `total` float32 is overwritten.
    """
    total /= xp.float32(total_weight)
    add_decay(total, weights, 2 * l2, biases=biases, scratch=scratch, xp=xp)
    return squares(total, xp)


def l2_loss(net: Net, flat: Array, l2: float, xp: ModuleType) -> float:
    """Return λ(ΣW1² + ΣW2²) of the flat parameters, the sum rounded once."""
    if not l2:
        return 0.0
    return l2 * math.fsum(part for block in weight_blocks(net, flat) for part in squares(block, xp))
