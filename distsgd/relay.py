"""A relay: on a node without the parameter server, a server to the workers there, and one peer to the real one.

It takes the parameters in once for all its workers, adds their subtrees, and sends the roots of what it holds whole. A
plain class that runs without Ray; actors.py makes an actor of it.
"""

from __future__ import annotations

import numpy as np

from distsgd import faults, reduction
from distsgd.links.crew import Crew
from distsgd.reduction import Node, Partial


class Relay:
    """Stands for the workers of one node."""

    def __init__(self, crew: Crew, num_shards: int) -> None:
        self._crew, self._num_shards = crew, num_shards

    def compute(self, step: int, flat: np.ndarray, shards: range) -> list[Partial]:
        """Return the gradient sums of a run of shards, as `worker.Worker.compute` does."""
        if faults.ARMED:
            faults.reached("relay", 0, step + 1, "asked")
        buffer = step % 2
        self._crew.buffers[buffer] = flat
        held = {partial.node: partial for partial in self._crew.exchange(step, buffer, shards)}
        if faults.ARMED:
            faults.reached("relay", 0, step + 1, "gathered")

        def known(node: Node, _: int) -> Partial | None:
            return held.get(node)

        def add(left: Partial, right: Partial, _: int) -> Partial:
            return left.joined(right, left.gradient + right.gradient)

        with np.errstate(all="ignore"):  # the server looks at every result
            return [reduction.tree_sum(root, known, add) for root in reduction.roots(shards, self._num_shards)]
