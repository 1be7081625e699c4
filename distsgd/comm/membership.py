"""Who a dispatcher's peers are: those that take part, join and are lost, and which shards each of them computes."""

from __future__ import annotations

import select
import threading
from typing import NamedTuple

from distsgd.comm.transport import Peer
from distsgd.core import reduction


class LostPeer(NamedTuple):
    """A peer that takes part no more."""

    name: str
    host: str
    pid: int
    """See `transport.Peer`: another process may go by this name by now."""
    step: int
    """The step, counted from 1, that it was lost in."""

    problem: str
    """A clause on what was found."""


class Assignment(NamedTuple):
    """The shards that one peer computes in a step, unless another is lost."""

    descriptor: int
    peer: Peer
    shards: range


class InterruptedStepError(Exception):
    """A step without workers was waiting for one when it was interrupted."""


class Membership:
    """The peers of one dispatcher, in the order in which they joined.

    Any thread may call `join`, `size`, `reweigh`, `take_lost_peers` and `interrupt`; all else is for the one thread
    that exchanges gradients with the peers.
    """

    def __init__(self) -> None:
        self.peers: dict[int, Peer] = {}
        """Those that take part, by descriptor."""
        self.poll = select.poll()
        """Of their descriptors, for what they send."""
        self._assignments: list[Assignment] = []
        self._assigned: range | None = None  # the shards that the assignments are of; None if they are out of date
        self._changed = threading.Condition()
        self._joining: list[Peer] = []
        self._lost: list[LostPeer] = []
        self._interrupted = self._closed = False

    def join(self, peer: Peer) -> None:
        """Let a peer take part from the next step on; it is hung up on if the dispatcher is closed."""
        with self._changed:
            if not self._closed:
                self._joining.append(peer)
                self._changed.notify_all()
                return
        peer.close()

    def size(self) -> int:
        """Return the number of workers, those that take part from the next step on included."""
        with self._changed:
            return sum(peer.weight for peer in [*self.peers.values(), *self._joining])

    def reweigh(self, name: str, weight: int) -> None:
        """Let the peer of that name stand for so many workers from the next step on."""
        with self._changed:
            for peer in [*self.peers.values(), *self._joining]:
                if peer.name == name:
                    peer.weight = weight
            self._assigned = None

    def take_lost_peers(self) -> list[LostPeer]:
        """Return who was lost since the last call."""
        with self._changed:
            lost, self._lost = self._lost, []
        return lost

    def interrupt(self) -> None:
        """Make `await_arrival` raise InterruptedStepError, now or when it is called."""
        with self._changed:
            self._interrupted = True
            self._changed.notify_all()

    def assignments(self, shards: range) -> list[Assignment]:
        """Return who computes which of `shards` in the step that begins; those that have joined take part."""
        if self._joining or shards != self._assigned:
            self._assign(shards)
        return self._assignments

    def _assign(self, shards: range) -> None:
        """Give every peer a contiguous run of `shards` by its weight."""
        with self._changed:
            for peer in self._joining:
                self.peers[peer.fileno()] = peer
                self.poll.register(peer.fileno(), select.POLLIN)
            self._joining = []
            weights = [peer.weight for peer in self.peers.values()]  # which `reweigh` may change
            runs = iter(reduction.assign(sum(weights), len(shards)) if weights else ())
            self._assignments = []
            for descriptor, peer in self.peers.items():
                own = [next(runs) for _ in range(peer.weight)]
                run = range(shards.start + own[0].start, shards.start + own[-1].stop)
                if run:
                    self._assignments.append(Assignment(descriptor, peer, run))
            self._assigned = shards

    def lose(self, descriptor: int, step: int, problem: str, *, kill: bool) -> None:
        """Hang up on a peer, which takes part no more; with `kill`, end its process. `step` is counted from 0."""
        peer = self.peers.pop(descriptor)
        self.poll.unregister(descriptor)
        peer.close(kill=kill)
        self._assignments, self._assigned = [], None  # nor does its memory stay
        with self._changed:
            self._lost.append(LostPeer(peer.name, peer.host, peer.pid, step + 1, problem))

    def await_arrival(self, timeout_s: float) -> bool:
        """Return whether a peer has joined, or does within `timeout_s`."""
        with self._changed:
            self._changed.wait_for(lambda: self._joining or self._interrupted, timeout_s)
            if self._interrupted:
                raise InterruptedStepError
            return bool(self._joining)

    def close(self) -> None:
        """Hang up on all peers, and on all that join later."""
        with self._changed:
            self._closed = True
            peers = [*self.peers.values(), *self._joining]
            self.peers, self._joining = {}, []
        for peer in peers:
            peer.close()
