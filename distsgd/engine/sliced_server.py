"""A parameter server that does its steps together with the other nodes, if it is offered a view of them.

Without one it is a ParameterServer, and no step takes longer. A view ends between two steps if a worker joins or
leaves, and at any moment if a member is lost: the step is then done again as the only server, with the same bits.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from distsgd.core.slices import SlicesBrokenError
from distsgd.engine import server
from distsgd.engine.server import ParameterServer
from distsgd.engine.slice_leader import SliceLeader
from distsgd.engine.snapshot import Snapshot
from distsgd.errors import NonFiniteError, ServerLostError, TrainingError, WorkerLostError
from distsgd.system import faults

SNAPSHOT_S = 600.0
"""Seconds that a snapshot waits for the state that other nodes hold: until the next step has been done."""


class Link(server.Link, Protocol):
    """The interface to the workers, and to other nodes; implemented by comm.dispatcher.Dispatcher."""

    def begin_view(self, view: int, step: int, names: Sequence[str]) -> bool:
        """Tell the workers of other nodes, if their names are `names`, to leave this link alone and serve a view."""
        ...

    def end_view(self) -> None:
        """Use the workers of other nodes again."""
        ...

    def lose(self, name: str, step: int, problem: str) -> None:
        """Give up a worker of another node that does not answer, before `end_view`."""
        ...


class SlicesStatus(NamedTuple):
    """Whether steps are done together with other nodes."""

    view: int
    """The number of the view in use; 0 if there is none."""
    ended: int
    """The number of the last view that is over; 0 if none is."""
    problem: str
    """What ended the last view; empty if it ended as it should."""


class SlicedServer(ParameterServer):
    """A ParameterServer to which views can be offered while it trains."""

    link: Link

    def __init__(self, *, link: Link, **values: Any) -> None:
        """See ParameterServer."""
        super().__init__(link=link, **values)
        self._stopped = False  # for good, while `_stop` interrupts the steps for whatever happens between two of them
        self._slices: SliceLeader | None = None
        self._offers: list[SliceLeader] = []
        self._ended, self._problem = 0, ""
        self._snapshot_made = threading.Condition(self._lock)
        self._snapshot_wanted = False
        self._snapshot: Snapshot | None = None
        self._lost: ServerLostError | None = None  # once a part of the state is

    @np.errstate(all="ignore")  # see ParameterServer.run
    def run(self, until: int) -> int:
        """See ParameterServer.run; also raise ServerLostError if state is lost that another node held."""
        self._times.start(time.perf_counter())
        while self.step < until:
            self._stop.clear()
            if self._stopped:
                break
            self._change_slices()
            if self._slices is None:
                self._run_alone(until)
            else:
                self._run_sliced(self._slices, until)
        return self.step

    def stop(self) -> None:
        """See ParameterServer.stop."""
        self._stopped = True
        super().stop()

    def snapshot(self) -> Snapshot:
        """Return a consistent copy of the state at the end of some step.

        Raise ServerLostError if another node was lost with a part of it.
        """
        with self._lock:
            if self._lost is None and (self._slices is None or self._slices.state_is_here):
                return self._copy()
            self._snapshot_wanted = True
            self._stop.set()
            self._snapshot_made.wait_for(lambda: self._snapshot or self._lost, SNAPSHOT_S)
            self._snapshot_wanted = False
            made, self._snapshot = self._snapshot, None
            if made is not None:
                return made
            raise self._lost or ServerLostError("the other nodes have not sent their slices of the state")

    def use_slices(self, leader: SliceLeader) -> None:
        """Do the next steps together with other nodes; return at once."""
        with self._lock:
            self._offers.append(leader)
        self._stop.set()

    def slices(self) -> SlicesStatus:
        """Return which view is in use, and what ended the last one."""
        leader = self._slices
        return SlicesStatus(leader.view.number if leader is not None else 0, self._ended, self._problem)

    def _change_slices(self) -> None:
        """Begin to do steps together with other nodes, if `use_slices` was called."""
        with self._lock:
            offers, self._offers = self._offers, []
        if not offers:
            return
        if self._slices is not None:
            self._leave(self._slices)
        *outdated, offered = offers
        for leader in outdated:
            leader.close()
        if not self.link.begin_view(offered.view.number, self.step, offered.names[1:]):
            self._ended, self._problem = offered.view.number, "workers have joined or left meanwhile"
            offered.close()
            return
        try:
            offered.begin(self.step, self._current, self._parameters, self._slots, threads=self._threads)
        except SlicesBrokenError as error:
            self._end_slices(offered, error)
        else:
            self._slices = offered

    def _run_sliced(self, leader: SliceLeader, until: int) -> None:
        """Train together with other nodes, until something else is to be done or one of them is lost."""
        try:
            leader.go(self.step)
            hold = False
            while not hold:
                hold = self.step + 1 >= until or self._stop.is_set()
                faults.reached("server", 0, self.step + 1, "begun")
                done = leader.step(self.step, self._current, hold=hold)
                faults.reached("server", 0, self.step + 1, "gathered")
                try:
                    self._commit(done.sums, finite=done.finite)
                except NonFiniteError:
                    leader.fetch(self.step, self._current)
                    raise
                faults.reached("server", 0, self.step, "applied")
                self._note(done.sums, until)
            leader.fetch(self.step, self._current)
        except WorkerLostError as error:  # the workers of this node; those of others go on without them
            self._leave(leader, str(error))
        except SlicesBrokenError as error:
            self._end_slices(leader, error)
        finally:  # also if the run ends
            with self._lock:
                if self._snapshot_wanted and self._lost is None and leader.state_is_here:
                    self._snapshot = self._copy()
                    self._snapshot_made.notify_all()

    def _leave(self, leader: SliceLeader, problem: str = "") -> None:
        """End the view between two steps; the others hold, and the whole state is here."""
        with contextlib.suppress(SlicesBrokenError):
            leader.leave(self.step)
        self._slices, self._ended, self._problem = None, leader.view.number, problem
        leader.close()
        self.link.end_view()

    def _end_slices(self, leader: SliceLeader, error: SlicesBrokenError) -> None:
        """End a view in which a member was lost; raise ServerLostError if it had state that nobody else has."""
        problem, name = str(error), leader.names[error.member]
        with self._lock:
            if not leader.state_is_here:
                self._lost = ServerLostError(f"{name} was lost with its slice of the update rule's state: {problem}")
                self._snapshot_made.notify_all()
            self._slices, self._ended, self._problem = None, leader.view.number, problem
        leader.close()
        if error.overdue:
            self.link.lose(name, self.step, problem)
        self.link.end_view()
        if error.failed:
            raise TrainingError(f"{name} failed in step {self.step + 1}: {problem}")
        if self._lost is not None:
            raise self._lost
