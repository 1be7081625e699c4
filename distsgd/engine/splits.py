"""Views of flat vectors as a net's parameters, made once for vectors that are used in every step."""

from __future__ import annotations

from distsgd.core.net import Array, Net, Parameters

KEPT = 128
"""Maximum number of vectors whose views are kept: buffers that are used in every step."""


class Splits:
    """`net.split` of vectors."""

    def __init__(self, net: Net) -> None:
        self._net = net
        self._known: dict[int, tuple[Array, Parameters]] = {}

    def of(self, flat: Array) -> Parameters:
        """Return `net.split(flat)`, from the cache if there was the same array before."""
        known = self._known.get(id(flat))
        if known is None or known[0] is not flat:
            if len(self._known) > KEPT:
                self._known.clear()
            known = self._known[id(flat)] = (flat, self._net.split(flat))
        return known[1]

    def clear(self) -> None:
        """Forget all vectors, which the cache keeps alive."""
        self._known.clear()
