"""An aggregator: on a node without the parameter server, a server to the workers there and one peer to the real one.

It receives the parameters once for all its workers, adds up their partial sums, and sends one for each subtree that it
holds whole. A plain class that runs without Ray; cluster/actors.py makes an actor of it.
"""

from __future__ import annotations

import numpy as np

from distsgd.comm.dispatcher import Dispatcher
from distsgd.core import reduction
from distsgd.core.reduction import PartialSum
from distsgd.system import faults


class NodeAggregator:
    """Computes as one worker what the workers of its node compute."""

    def __init__(self, dispatcher: Dispatcher, num_shards: int) -> None:
        self._dispatcher, self._num_shards = dispatcher, num_shards

    def compute(self, step: int, flat: np.ndarray, shards: range) -> list[PartialSum]:
        """Return the gradient sums of a run of shards, as `Worker.compute` does."""
        faults.reached("aggregator", 0, step + 1, "asked")
        buffer = step % 2
        self._dispatcher.buffers[buffer] = flat
        partials = self._dispatcher.exchange(step, buffer, shards)
        faults.reached("aggregator", 0, step + 1, "gathered")
        with np.errstate(all="ignore"):  # the server looks at every result
            roots = reduction.maximal_subtrees(shards, self._num_shards)
            return [reduction.sum_over(root, partials) for root in roots]
