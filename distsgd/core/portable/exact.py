"""Matrix products of operands on grids, whose bits no order of addition can change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType

from distsgd.core.net import Array


def product(
    A: Array, B: Array, out: Array, pieces: Sequence[slice], multiply: Callable[..., Array], xp: ModuleType
) -> None:
    """Write AB to `out` (n, k) in C order, for A (n, m) and B (m, k) on grids whose products of each piece are exact.

    With several pieces, the products are rounded when they are added, one after the other.
    """
    if len(pieces) == 1:
        multiply(A, B, out=out)
        return
    multiply(A[:, pieces[0]], B[pieces[0]], out=out)
    for piece in pieces[1:]:
        xp.add(out, multiply(A[:, piece], B[piece]), out=out)
