"""The parameter server's node, in steps with slices: it decides when the others begin, hold and leave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from distsgd.core.net import Net
from distsgd.core.reduction import PartialSum
from distsgd.core.update_rules import Slots
from distsgd.engine import slice_owner
from distsgd.engine.plan import Plan
from distsgd.engine.slice_owner import Computer, Sliced, SliceOwner
from distsgd.errors import TrainingError


class LeaderMesh(slice_owner.Mesh, Protocol):
    """What the leader needs of comm.mesh.Mesh, which describes the methods."""

    def begin(self, step: int, parameters: np.ndarray, state: Sequence[np.ndarray]) -> None: ...  # noqa: D102
    def order(self, kind: bytes, step: int) -> None: ...  # noqa: D102
    def void(self, step: int) -> None: ...  # noqa: D102
    def fetch(self, step: int, state: Sequence[np.ndarray]) -> None: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102


class SliceLeader:
    """Leads one view, from `begin` to `leave`; between orders, the others hold."""

    def __init__(self, *, net: Net, plan: Plan, mesh: LeaderMesh, computer: Computer, names: Sequence[str]) -> None:
        """`names` are those of the members, as the server's peers are called; the first one is the server."""
        self.names, self.view = names, mesh.view
        self._net, self._plan, self._mesh, self._computer = net, plan, mesh, computer
        self._shards = mesh.view.shards[0]
        self._rows = [np.empty(net.size, net.sums_dtype) for _ in mesh.view.roots[0]]
        self._parameters: Sequence[np.ndarray] = ()
        self._slots: Sequence[Slots] = ()
        self._owner: SliceOwner | None = None
        self.state_is_here = True
        """Whether the server has the whole state of the update rule, and not only its own slice."""

    def begin(
        self, step: int, current: int, parameters: Sequence[np.ndarray], slots: Sequence[Slots], *, threads: int
    ) -> None:
        """Send the others the state after `step` steps, which is in buffer `current` of both. They hold then."""
        self._parameters, self._slots = parameters, slots
        self._owner = SliceOwner(
            net=self._net, plan=self._plan, mesh=self._mesh, parameters=parameters, slots=slots, threads=threads
        )
        self._mesh.begin(step, parameters[current], list(slots[current].values()))

    def go(self, step: int) -> None:
        """Let the others go on with step `step`."""
        self._mesh.order(b"G", step)

    def step(self, step: int, current: int, *, hold: bool) -> Sliced:
        """Do a step together; the others hold afterwards if `hold` is set.

        Raise WorkerLostError if no worker is left on this node, and TrainingError if a computation fails here: the
        others hold then, the whole state is here, and all that is left to do is `leave`. Raise SlicesBrokenError if
        another member is lost.
        """
        assert self._owner is not None
        partials: Sequence[PartialSum] = ()
        try:
            if self._shards:
                partials = self._computer.compute(step, self._parameters[current], self._shards, self._rows)
        except TrainingError:
            self._mesh.void(step)
            self.fetch(step, current)
            raise
        done = self._owner.step(step, current, partials, hold=hold)
        assert done is not None, "only this member calls off a step"
        self.state_is_here = not self._slots[0]  # until then, all that was fetched is that before the step
        return done

    def fetch(self, step: int, current: int) -> None:
        """Receive all slices of the state, from members that hold."""
        if not self.state_is_here:
            self._mesh.fetch(step, list(self._slots[current].values()))
            self.state_is_here = True

    def leave(self, step: int) -> None:
        """Make the others leave, which hold."""
        self._mesh.order(b"Q", step)

    def close(self) -> None:
        """Close the connections."""
        self._mesh.close()
