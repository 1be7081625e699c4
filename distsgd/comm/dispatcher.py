"""The dispatcher of a server or an aggregator: sends the shards of a step to its peers and returns all gradients.

membership.py keeps track of the peers, exchange.py of the requests of one step. This module owns the parameter buffers
that peers read, and decides when to wait for which peer.
"""

from __future__ import annotations

import os
import select
from collections.abc import Sequence

import numpy as np

from distsgd.comm.deadlines import Deadlines
from distsgd.comm.exchange import Exchange
from distsgd.comm.membership import Membership
from distsgd.comm.memory import Segment
from distsgd.comm.spinning import spin
from distsgd.comm.tcp_peer import TcpPeer
from distsgd.comm.transport import PeerLostError, PeerTimeoutError
from distsgd.core.reduction import PartialSum
from distsgd.errors import WorkerLostError

SINGLE_PEER_WAIT_MS = 5
"""Milliseconds for which a step may wait for its slowest peer only; the loss of another goes unnoticed meanwhile."""


class Dispatcher:
    """Exchanges parameters for gradients with its `members`, one step at a time."""

    def __init__(self, parameters: int, *, deadlines: Deadlines, arrival_timeout_s: float, spin: bool) -> None:
        """Wait up to `arrival_timeout_s` for a peer to join when there is none; for answers, `deadlines` says.

        Set `spin` if there is a core for each peer and one for this process, so that waits may poll.
        """
        self.parameter_buffers = Segment.create(2, parameters)
        self.members = Membership(deadlines)
        self._deadlines, self._arrival_timeout_s, self._spins = deadlines, arrival_timeout_s, spin
        # Descriptor of the peer that answered last in a recent step. Another peer may have it by now: a worse guess.
        self._slowest: int | None = None
        self._slowest_poll = select.poll()

    @property
    def buffers(self) -> np.ndarray:
        """The two parameter buffers (2, P) that `exchange` chooses from."""
        return self.parameter_buffers.rows

    def exchange(self, step: int, buffer: int, shards: range, *, update_here: bool = True) -> list[PartialSum]:
        """Return the gradients of `shards` for step `step`, with the parameters in `buffers[buffer]`.

        Unless the update is all made on this node, workers gather their next rows meanwhile, however long that takes.
        The arrays are valid until the next call. Raise WorkerLostError if no peer is left and none joins in time,
        TrainingError if a computation fails, and InterruptedStepError after `Membership.interrupt`.
        """
        members = self.members
        now = Exchange(members, step, buffer, self._deadlines, update_here=update_here)
        assignments = members.assignments(shards)
        for descriptor, peer, run in assignments:
            now.start(descriptor, peer, run)
        if not assignments:  # no peer has joined yet
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
        """Wait until the usually slowest peer answers, then receive all answers; usually, all have arrived by then.

        There is nothing to do sooner, and waking up for each answer takes the core from a peer that is still computing.
        After SINGLE_PEER_WAIT_MS, return without receiving anything: `collect` then waits for all peers.
        """
        if self._slowest in now.busy and self._slowest_poll.poll(SINGLE_PEER_WAIT_MS):
            for descriptor in list(now.busy):
                now.receive(descriptor)

    def _learn(self, last: int | None) -> None:
        """Remember which peer answered last."""
        if last is not None and last != self._slowest:
            self._slowest, self._slowest_poll = last, select.poll()
            self._slowest_poll.register(last, select.POLLIN)

    def _await_arrival(self, step: int, shards: range) -> None:
        """Wait until a peer joins, and add it at once, so that it can compute the unassigned shards."""
        # While the other nodes serve a view, they wait for this node's gradients: they do its shards better alone.
        if self.members.are_parked or not self.members.await_arrival(self._arrival_timeout_s):
            raise WorkerLostError(
                f"no worker is left in step {step + 1}, and none joined within {self._arrival_timeout_s:g} s"
            )
        self.members.assignments(shards)

    def begin_view(self, view: int, step: int, names: Sequence[str]) -> bool:
        """Tell the peers of other nodes to serve a view from `step` on, and leave them out until `end_view`.

        Return False, and do nothing, if they are not those that `names` lists, or one of them cannot be told.
        """
        parked = self.members.park()
        if sorted(peer.name for peer in parked) == sorted(names):
            try:
                for peer in parked:
                    assert isinstance(peer, TcpPeer), "views are only of peers that are reached by TCP"
                    peer.begin_view(view, step)
                return True
            except (PeerLostError, PeerTimeoutError):  # an exchange will notice
                pass
        self.members.unpark()
        return False

    def end_view(self) -> None:
        """Use the peers of other nodes again."""
        self.members.unpark()

    def lose(self, name: str, step: int, problem: str) -> None:
        """Give up a peer of another node that hangs, before `end_view`."""
        self.members.lose_parked(name, step, problem)

    def close(self) -> None:
        """Close the connections to all peers, and release the parameter buffers."""
        self.members.close()
        os.close(self.parameter_buffers.descriptor)
