"""A node's part in a step with slices: its gradients go out, and its slice of the parameters is updated.

A plain class that runs without Ray. The parameter server's node leads (slice_leader.py), the others follow
(slice_follower.py); both do the same in a step, and differ in who says that one begins.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from distsgd.config import OptimConfig
from distsgd.core import optim
from distsgd.core.net import Net
from distsgd.core.portable.optim import PARTS
from distsgd.core.reduction import PartialSum
from distsgd.core.slices import GRAIN, View
from distsgd.core.update_rules import Slots, Step
from distsgd.engine.plan import Plan
from distsgd.engine.portable_aggregation import aggregation_for
from distsgd.engine.sums import StepSums


class Mesh(Protocol):
    """The connections to all other nodes; implemented by comm.mesh.Mesh, which describes the methods."""

    view: View
    member: int

    def scatter(self, step: int, partials: Sequence[PartialSum]) -> list[PartialSum] | None: ...  # noqa: D102
    def squares(self, step: int, own: Sequence[float], counts: Sequence[int]) -> list[float]: ...  # noqa: D102
    def gather(  # noqa: D102
        self, step: int, vector: np.ndarray, *, finite: bool, hold: bool, meanwhile: Callable[[], None] | None = None
    ) -> tuple[bool, bool]: ...


class Computer(Protocol):
    """What computes this node's shards: a worker, or an aggregator; see engine.worker.Worker."""

    def compute(  # noqa: D102
        self, step: int, flat: np.ndarray, shards: range, out: Sequence[np.ndarray]
    ) -> Sequence[PartialSum]: ...
    def prefetch(self, step: int, shards: range, *, update_here: bool) -> None: ...  # noqa: D102


class Sliced(NamedTuple):
    """A step that all members have done."""

    sums: StepSums
    finite: bool
    """Whether all slices, and the loss, are finite: if not, the update is dropped everywhere."""
    hold: bool
    """Whether the next step needs an order of member 0."""


def grain(config: OptimConfig) -> int:
    """Return what slices begin at multiples of. A norm may have a float32 sum for each block: no block is cut then."""
    return GRAIN if config.clip_norm is None else optim.BLOCK


class SliceOwner:
    """Does steps together with the other members."""

    def __init__(
        self,
        *,
        net: Net,
        plan: Plan,
        mesh: Mesh,
        parameters: Sequence[np.ndarray],
        slots: Sequence[Slots],
        threads: int,
    ) -> None:
        """Both buffers of the parameters (P,) and of the state vectors (P,) are used in turn."""
        view, config = mesh.view, plan.config
        self._plan, self._mesh, self._config = plan, mesh, config.optim
        self._parameters, self._slots = parameters, slots
        self._shards = view.shards[mesh.member]
        blocks = [list(optim.blocks(net, part)) for part in view.slices]
        own, size = blocks[mesh.member], plan.sampler.batch_count(0)
        per_block = 1 if plan.bounds is None else PARTS
        self._square_counts = [per_block * len(of_member) for of_member in blocks]
        self._aggregation = None
        if own:
            self._aggregation = aggregation_for(
                net, plan.bounds, config.optim, own, view.summation, size, threads=threads
            )

    def step(
        self,
        step: int,
        current: int,
        partials: Sequence[PartialSum],
        *,
        hold: bool = False,
        meanwhile: Callable[[], None] | None = None,
    ) -> Sliced | None:
        """Do a step with this node's gradients and the parameters in buffer `current`; the new ones are in the other.

        `meanwhile` is called if the other slices have yet to arrive; for `hold` see `Sliced`.
        Return None if member 0 says that the step is void. Raise SlicesBrokenError if a member is lost.
        """
        others = self._mesh.scatter(step, partials)
        if others is None:
            return None
        sums = StepSums.of(step, [*partials, *others], self._mesh.view.summation)
        finite = self._update(step, current, sums) and math.isfinite(sums.loss)
        new = self._parameters[1 - current]
        finite, hold = self._mesh.gather(step, new, finite=finite, hold=hold, meanwhile=meanwhile)
        return Sliced(sums, finite, hold)

    def _update(self, step: int, current: int, sums: StepSums) -> bool:
        """Update the own slice, into the other buffer; return whether it is finite."""
        weights, clip, aggregation = self._parameters[current], 1.0, self._aggregation
        gradients, plan, weight = sums.gradients, sums.plan, sums.weight
        if self._config.clip_norm is not None:
            squares = aggregation.squares(gradients, plan, weight, weights) if aggregation is not None else []
            clip = optim.clip_factor(self._config, self._mesh.squares(step, squares, self._square_counts))
        if aggregation is None:
            return True
        return aggregation.update(
            gradients,
            plan,
            weights,
            self._slots[current],
            step=Step(weight, self._plan.learning_rate(step), clip, self._plan.update_number(step)),
            out=self._parameters[1 - current],
            slots_out=self._slots[1 - current],
        )
