"""The node aggregator: on a node without the parameter server, it acts as the server of the node's workers.

To the parameter server it is a single peer. It receives the parameters once for all its workers, adds up their partial
sums, and sends one partial sum per complete subtree. A plain class that runs without Ray; cluster/actors.py wraps it in
an actor.
"""

from __future__ import annotations

import numpy as np

from distsgd.comm.dispatcher import Dispatcher
from distsgd.core import reduction
from distsgd.core.reduction import PartialSum
from distsgd.system import faults


class NodeAggregator:
    """Combines the workers of a node into one peer."""

    def __init__(self, dispatcher: Dispatcher, num_shards: int) -> None:
        self._dispatcher, self._num_shards = dispatcher, num_shards

    def compute(self, step: int, flat: np.ndarray, shards: range) -> list[PartialSum]:
        """Return the gradient sums of a contiguous range of shards, as `Worker.compute` does."""
        faults.reached("aggregator", 0, step + 1, "asked")
        buffer = step % 2
        self._dispatcher.buffers[buffer] = flat
        partials = self._dispatcher.exchange(step, buffer, shards)
        faults.reached("aggregator", 0, step + 1, "gathered")
        with np.errstate(all="ignore"):  # the server checks every result
            roots = reduction.maximal_subtrees(shards, self._num_shards)
            return [reduction.sum_over(root, partials) for root in roots]
