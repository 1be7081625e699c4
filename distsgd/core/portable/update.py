"""From exact sums of gradients to the float32 gradients that the update rules take."""

from __future__ import annotations

from types import ModuleType

from distsgd.core.net import Array, Net
from distsgd.core.portable.step import Grids


def gradient(total: Array, part: slice, net: Net, grids: Grids, out: Array, xp: ModuleType) -> None:
    """Write the gradient sums of a block of parameters to `out` float32.

    `total` float64 are the exact sums of `part` of the flat vector; it is overwritten. Each is multiplied by the factor
    of its feature, if that is not 1, and rounded to float32; a zero has no sign, as BLAS may give it either.
    """
    first = net.bounds.W1 if net.hidden else net.bounds.W2
    start, stop = max(first.start, part.start), min(first.stop, part.stop)
    if start < stop:
        inside = total[start - part.start : stop - part.start]
        if grids.factor != 1:
            xp.multiply(inside, grids.factor, out=inside)
        if grids.feature_factors is not None:
            width = net.hidden or net.classes
            rows = xp.arange(start - first.start, stop - first.start) // width
            xp.multiply(inside, grids.feature_factors[rows], out=inside)
    xp.add(total, 0.0, out=total)
    xp.copyto(out, total, casting="same_kind")
