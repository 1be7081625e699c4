"""An aggregator: on a node without the parameter server, a server to the workers there, and one peer to the real one.

It takes the parameters in once for all its workers, adds their subtrees, and sends the roots of what it holds whole. A
plain class that runs without Ray; actors.py makes an actor of it.
"""

from __future__ import annotations

import numpy as np

from distsgd.comm.dispatcher import Dispatcher
from distsgd.core import reduction
from distsgd.core.reduction import Node, PartialSum
from distsgd.system import faults


class NodeAggregator:
    """Stands for the workers of one node."""

    def __init__(self, dispatcher: Dispatcher, num_shards: int) -> None:
        self._dispatcher, self._num_shards = dispatcher, num_shards

    def compute(self, step: int, flat: np.ndarray, shards: range) -> list[PartialSum]:
        """Return the gradient sums of a run of shards, as `worker.Worker.compute` does."""
        if faults.ARMED:
            faults.reached("aggregator", 0, step + 1, "asked")
        buffer = step % 2
        self._dispatcher.buffers[buffer] = flat
        held = {partial.node: partial for partial in self._dispatcher.exchange(step, buffer, shards)}
        if faults.ARMED:
            faults.reached("aggregator", 0, step + 1, "gathered")

        def known(node: Node, _: int) -> PartialSum | None:
            return held.get(node)

        def add(left: PartialSum, right: PartialSum, _: int) -> PartialSum:
            return left.combined(right, left.gradient + right.gradient)

        with np.errstate(all="ignore"):  # the server looks at every result
            return [
                reduction.tree_sum(root, known, add) for root in reduction.maximal_subtrees(shards, self._num_shards)
            ]
