"""The node aggregator: on a node without the parameter server, it acts as the server of the node's workers.

To the parameter server it is a single peer. It receives the parameters once for all its workers, adds up their partial
sums, and sends one partial sum per complete subtree. A plain class that runs without Ray;
cluster/gradient_actors.py wraps it in an actor.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from distsgd.comm.dispatcher import Dispatcher
from distsgd.core import reduction
from distsgd.core.reduction import PartialSum, Summation
from distsgd.system import faults


class NodeAggregator:
    """Combines the workers of a node into one peer."""

    def __init__(self, dispatcher: Dispatcher, summation: Summation) -> None:
        self._dispatcher, self._summation = dispatcher, summation
        self._rows = list(dispatcher.buffers)
        self._scratch: dict[int, np.ndarray] = {}  # sums that are not yet complete, by the number of their buffer

    def compute(
        self, step: int, flat: np.ndarray, shards: range, out: Sequence[np.ndarray] | None = None
    ) -> list[PartialSum]:
        """Return the gradient sums of a contiguous range of shards, as `Worker.compute` does.

        `flat` is copied unless it is one of the dispatcher's buffers already. A gradient is that of a
        worker, valid until the next call, or a sum in one of the arrays (P,) of `out`, or in a new one.
        """
        faults.reached("aggregator", 0, step + 1, "asked")
        buffer = next((number for number, row in enumerate(self._rows) if np.may_share_memory(flat, row)), step % 2)
        if not np.may_share_memory(flat, self._rows[buffer]):
            self._rows[buffer][:] = flat
        partials = self._dispatcher.exchange(step, buffer, shards, update_here=False)
        faults.reached("aggregator", 0, step + 1, "gathered")
        roots = self._summation.nodes(shards)
        if out is None:
            out = [np.empty(len(flat), self._summation.dtype) for _ in roots]
        with np.errstate(all="ignore"):  # the server checks every result
            return [self._sum(root, partials, row) for root, row in zip(roots, out, strict=False)]

    def _sum(self, root: reduction.Node, partials: Sequence[PartialSum], out: np.ndarray) -> PartialSum:
        def add(left: PartialSum, right: PartialSum, buffer: int) -> PartialSum:
            row = out if buffer == 0 else self._scratch.get(buffer)
            if row is None:
                row = self._scratch[buffer] = np.empty_like(out)
            return left.combined(right, np.add(left.gradient, right.gradient, out=row))

        return reduction.sum_over(root, partials, add, plan=self._summation.additions)

    def prefetch(self, step: int, shards: range, *, update_here: bool) -> None:
        """Do nothing: the workers prefetch their next rows once they have answered."""
