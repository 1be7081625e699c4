"""A node without the parameter server, in steps with slices: it computes its shards and updates its slice.

A plain class that runs without Ray. The server's node leads: it says when to begin, when to hold, and when to leave.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Protocol

import numpy as np

from distsgd.core.net import Net
from distsgd.core.reduction import PartialSum
from distsgd.core.slices import SlicesBrokenError
from distsgd.core.update_rules import update_rule
from distsgd.engine import slice_owner
from distsgd.engine.plan import Plan
from distsgd.engine.slice_owner import Computer, SliceOwner
from distsgd.errors import WorkerLostError
from distsgd.system import faults


class FollowerMesh(slice_owner.Mesh, Protocol):
    """What a follower needs of comm.mesh.Mesh, which describes the methods."""

    def await_begin(self, step: int, parameters: np.ndarray, state: Sequence[np.ndarray]) -> None: ...  # noqa: D102
    def await_order(self, step: int) -> bytes: ...  # noqa: D102
    def send_state(self, step: int, state: Sequence[np.ndarray]) -> None: ...  # noqa: D102
    def report(  # noqa: D102
        self, step: int, problem: str, *, member: int | None = None, failed: bool = False
    ) -> None: ...
    def close(self) -> None: ...  # noqa: D102


class SliceFollower:
    """Serves one view: from the leader's beginning until it says to leave, or a member is lost."""

    def __init__(
        self,
        *,
        net: Net,
        plan: Plan,
        mesh: FollowerMesh,
        computer: Computer,
        parameters: Sequence[np.ndarray],
        role: tuple[str, int],
        threads: int,
    ) -> None:
        """`parameters` are the two buffers (P,) that the computer's workers read; `role` is for fault injection."""
        self._mesh, self._computer, self._parameters, self._role = mesh, computer, parameters, role
        self._shards = mesh.view.shards[mesh.member]
        names = update_rule(plan.config.optim).slots
        # Zeros that are never written to use no memory: all but the own slice.
        self._slots = [{name: np.zeros(net.size, np.float32) for name in names} for _ in range(2)]
        self._rows = [np.empty(net.size, net.sums_dtype) for _ in mesh.view.roots[mesh.member]]
        self._holds_if_bad = plan.config.train.on_nonfinite == "stop"
        self._owner = SliceOwner(
            net=net, plan=plan, mesh=mesh, parameters=parameters, slots=self._slots, threads=threads
        )

    @np.errstate(all="ignore")  # an update is checked from its results
    def serve(self, step: int) -> None:
        """Take part in the steps from `step` on; return when this is over, whatever the reason, which is reported."""
        try:
            self._serve(step)
        except SlicesBrokenError as error:
            self._report(step, str(error), member=error.member)
        except WorkerLostError as error:
            self._report(step, str(error))
        except Exception as error:  # whatever it is, the leader has to report it
            self._report(step, f"{type(error).__name__}: {error}", failed=True)
        finally:
            self._mesh.close()

    def close(self) -> None:
        """Leave a view that has not begun."""
        self._mesh.close()

    def _report(self, step: int, problem: str, *, member: int | None = None, failed: bool = False) -> None:
        with suppress(SlicesBrokenError):
            self._mesh.report(step, problem, member=member, failed=failed)

    def _serve(self, step: int) -> None:
        current, held = 0, True
        self._mesh.await_begin(step, self._parameters[current], list(self._slots[current].values()))
        while True:
            if held:
                order = self._mesh.await_order(step)
                if order == b"Q":
                    return
                if order == b"S":
                    self._mesh.send_state(step, list(self._slots[current].values()))
                    continue
            faults.reached(*self._role, step + 1, "asked")
            partials: Sequence[PartialSum] = ()
            if self._shards:
                partials = self._computer.compute(step, self._parameters[current], self._shards, self._rows)
            faults.reached(*self._role, step + 1, "computed")
            done = self._owner.step(step, current, partials, meanwhile=partial(self._prefetch, step + 1))
            faults.reached(*self._role, step + 1, "answered")
            if done is None or (self._holds_if_bad and not done.finite):  # the leader ends the run in this step
                held = True
                continue
            step, held = step + 1, done.hold
            if done.finite:
                current = 1 - current

    def _prefetch(self, step: int) -> None:
        if self._shards:
            self._computer.prefetch(step, self._shards, update_here=False)
