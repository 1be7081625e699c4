"""A server's or an aggregator's way to its peers: sends out the shards of a step and returns every gradient.

Who takes part is the affair of membership.py, what happens within one step that of exchange.py. Here are the parameter
buffers that peers read, and the waiting: at what moment the dispatcher listens to whom.
"""

from __future__ import annotations

import os
import select

import numpy as np

from distsgd.comm.exchange import Exchange
from distsgd.comm.membership import Membership
from distsgd.comm.memory import Segment
from distsgd.comm.spinning import spin
from distsgd.core.reduction import PartialSum
from distsgd.errors import WorkerLostError

SINGLE_PEER_WAIT_MS = 5
"""Milliseconds for which a step may wait for its slowest peer alone, and not notice the loss of another one."""


class Dispatcher:
    """Exchanges parameters for gradients with its `members`, one step at a time."""

    def __init__(self, parameters: int, *, timeout_s: float, arrival_timeout_s: float, spin: bool) -> None:
        """Wait `timeout_s` for an answer, and `arrival_timeout_s` for a peer when there is none.

        With `spin`, there is a core for each peer and one for this process, so that waits may poll.
        """
        self.parameter_buffers = Segment.create(2, parameters)
        self.members = Membership()
        self._timeout_s, self._arrival_timeout_s, self._spins = timeout_s, arrival_timeout_s, spin
        # The descriptor of who answered last in some step; it may be another peer's by now, and a worse guess.
        self._slowest: int | None = None
        self._slowest_poll = select.poll()

    @property
    def buffers(self) -> np.ndarray:
        """The two parameter buffers (2, P) that `exchange` chooses from."""
        return self.parameter_buffers.rows

    def exchange(self, step: int, buffer: int, shards: range) -> list[PartialSum]:
        """Return the gradients of `shards` for step `step`, with the parameters in `buffers[buffer]`.

        The arrays are valid until the next call. Raises WorkerLostError if no peer is left and none joins in time,
        TrainingError if a computation fails, InterruptedStepError as `Membership.interrupt` says.
        """
        members = self.members
        now = Exchange(members, step, buffer, self._timeout_s)
        assignments = members.assignments(shards)
        for descriptor, peer, run in assignments:
            now.start(descriptor, peer, run)
        if not assignments:  # nobody is here yet
            now.owed.append(shards)
        if self._spins:
            spin(members.poll, len(now.busy))
        self._await_slowest(now)
        while now.busy or now.owed:
            if not members.peers:
                self._await_arrival(step, shards)
            if now.owed:
                now.reassign()
            if now.busy:
                self._learn(now.collect())
        return now.partials()

    def _await_slowest(self, now: Exchange) -> None:
        """Sleep until the peer answers that was last before, and receive from all who have by then.

        There is nothing to do sooner, and to wake up for each answer takes the core from a peer that still computes.
        If it takes longer than SINGLE_PEER_WAIT_MS nothing is received here: `collect` then listens to everybody.
        """
        if self._slowest in now.busy and self._slowest_poll.poll(SINGLE_PEER_WAIT_MS):
            for descriptor, _ in self.members.poll.poll(0):
                now.receive(descriptor)

    def _learn(self, last: int | None) -> None:
        """Remember who was last."""
        if last is not None and last != self._slowest:
            self._slowest, self._slowest_poll = last, select.poll()
            self._slowest_poll.register(last, select.POLLIN)

    def _await_arrival(self, step: int, shards: range) -> None:
        """Wait until a peer joins, and let it take part at once: what is owed is for it."""
        if not self.members.await_arrival(self._arrival_timeout_s):
            raise WorkerLostError(
                f"no worker is left in step {step + 1}, and none came within {self._arrival_timeout_s:g} s"
            )
        self.members.assignments(shards)

    def close(self) -> None:
        """Hang up on all peers, and give the parameter buffers back."""
        self.members.close()
        os.close(self.parameter_buffers.descriptor)
