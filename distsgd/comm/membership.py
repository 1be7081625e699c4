"""The peers of a dispatcher: which are active, joining or lost, and which shards each of them computes."""

from __future__ import annotations

import select
import threading
from typing import NamedTuple

from distsgd.comm.deadlines import Deadlines
from distsgd.comm.transport import Peer
from distsgd.core import reduction


class LostPeer(NamedTuple):
    """A peer that was lost."""

    name: str
    host: str
    pid: int
    """See `transport.Peer`; a replacement may have the same name by now."""
    step: int
    """The step in which it was lost, counted from 1."""

    problem: str
    """What happened, as a clause for a message."""


class Assignment(NamedTuple):
    """The shards that one peer computes in a step if no peer is lost."""

    descriptor: int
    peer: Peer
    shards: range


class InterruptedStepError(Exception):
    """A step was interrupted while it waited for a worker to join."""


class Membership:
    """The peers of one dispatcher, in the order in which they joined.

    `join`, `size`, `reweigh`, `take_lost_peers` and `interrupt` are thread-safe; everything else is for the thread that
    exchanges gradients with the peers.
    """

    def __init__(self, deadlines: Deadlines) -> None:
        """Tell `deadlines` of the shards of each peer, and of peers whose former answers mean nothing any more."""
        self._deadlines = deadlines
        self.peers: dict[int, Peer] = {}
        """The active peers, by descriptor."""
        self.poll = select.poll()
        """Polls their descriptors for input."""
        self._assignments: list[Assignment] = []
        self._assigned: range | None = None  # the shards that are assigned; None if the assignments are out of date
        self._changed = threading.Condition()
        self._joining: list[Peer] = []
        self._grown: set[int] = set()  # peers with new workers, which may have their first task in the next step
        self._parked: dict[int, Peer] | None = None  # peers of other nodes, while they serve a view; see `park`
        self._lost: list[LostPeer] = []
        self._interrupted = self._closed = False

    def join(self, peer: Peer) -> None:
        """Add a peer from the next step on; close its connection if the dispatcher is closed."""
        with self._changed:
            if not self._closed:
                if self._parked is not None and peer.path is not None:
                    self._parked[peer.fileno()] = peer
                    return
                self._joining.append(peer)
                self._changed.notify_all()
                return
        peer.close()

    def size(self) -> int:
        """Return the number of workers, including those that join with the next step."""
        with self._changed:
            return sum(peer.weight for peer in self._all())

    def reweigh(self, name: str, weight: int) -> None:
        """Set the number of workers that the peer `name` represents, from the next step on."""
        with self._changed:
            for peer in self._all():
                if peer.name == name:
                    if weight > peer.weight:  # its new workers have to give their first answers
                        self._deadlines.forget(peer.fileno())
                        self._grown.add(peer.fileno())  # the answer to the current step may be learned from
                    peer.weight = weight
            self._assigned = None

    def _all(self) -> list[Peer]:
        return [*self.peers.values(), *self._joining, *(self._parked or {}).values()]

    @property
    def are_parked(self) -> bool:
        """Whether the peers of other nodes are; see `park`."""
        return self._parked is not None

    def park(self) -> list[Peer]:
        """Leave out the peers of other nodes, and all that join, until `unpark`; return those that do not compute."""
        with self._changed:
            joining = [peer for peer in self._joining if peer.path is not None]
            self._joining = [peer for peer in self._joining if peer.path is None]
            parked = {descriptor: peer for descriptor, peer in self.peers.items() if peer.path is not None}
            for descriptor in parked:
                del self.peers[descriptor]
                self.poll.unregister(descriptor)
            self._parked = parked | {peer.fileno(): peer for peer in joining}
            self._assignments, self._assigned = [], None
            return list(self._parked.values())

    def unpark(self) -> None:
        """Include the peers of other nodes again, from the next step on."""
        with self._changed:
            parked, self._parked = self._parked or {}, None
            self._joining += parked.values()
            self._assigned = None
            self._changed.notify_all()

    def take_lost_peers(self) -> list[LostPeer]:
        """Return the peers that were lost since the last call."""
        with self._changed:
            lost, self._lost = self._lost, []
        return lost

    def interrupt(self) -> None:
        """Make `await_arrival` raise InterruptedStepError, now or when it is called."""
        with self._changed:
            self._interrupted = True
            self._changed.notify_all()

    def assignments(self, shards: range) -> list[Assignment]:
        """Return which peer computes which of `shards` in the next step, including peers that have just joined."""
        if self._joining or shards != self._assigned:
            self._assign(shards)
        return self._assignments

    def _assign(self, shards: range) -> None:
        """Assign every peer a contiguous range of `shards`, in proportion to its weight."""
        with self._changed:
            for peer in self._joining:
                self.peers[peer.fileno()] = peer
                self.poll.register(peer.fileno(), select.POLLIN)
            self._joining = []
            for descriptor in self._grown:
                self._deadlines.forget(descriptor)
            self._grown.clear()
            weights = [peer.weight for peer in self.peers.values()]  # `reweigh` may change them
            runs = iter(reduction.assign(sum(weights), len(shards)) if weights else ())
            self._assignments = []
            for descriptor, peer in self.peers.items():
                own = [next(runs) for _ in range(peer.weight)]
                run = range(shards.start + own[0].start, shards.start + own[-1].stop)
                if run:
                    self._assignments.append(Assignment(descriptor, peer, run))
            self._assignments.sort(key=lambda assignment: assignment.peer.path is not None)
            self._deadlines.expect((descriptor, len(run)) for descriptor, _, run in self._assignments)
            self._assigned = shards

    def lose(self, descriptor: int, step: int, problem: str, *, kill: bool) -> None:
        """Remove a peer and close its connection; with `kill`, kill its process. `step` is counted from 0."""
        peer = self.peers.pop(descriptor)
        self.poll.unregister(descriptor)
        self._deadlines.forget(descriptor)
        peer.close(kill=kill)
        self._assignments, self._assigned = [], None  # drop the references to it, so that its memory is freed
        with self._changed:
            self._lost.append(LostPeer(peer.name, peer.host, peer.pid, step + 1, problem))

    def lose_parked(self, name: str, step: int, problem: str) -> None:
        """Remove a parked peer that hangs, and have its process killed."""
        with self._changed:
            for descriptor, peer in list((self._parked or {}).items()):
                if self._parked and peer.name == name:
                    del self._parked[descriptor]
                    self._deadlines.forget(descriptor)
                    peer.close(kill=True)
                    self._lost.append(LostPeer(peer.name, peer.host, peer.pid, step + 1, problem))

    def await_arrival(self, timeout_s: float) -> bool:
        """Wait up to `timeout_s` for a peer to join; return whether one has."""
        with self._changed:
            self._changed.wait_for(lambda: self._joining or self._interrupted, timeout_s)
            if self._interrupted:
                raise InterruptedStepError
            return bool(self._joining)

    def close(self) -> None:
        """Close the connections to all peers, and to all that join later."""
        with self._changed:
            self._closed = True
            peers = self._all()
            self.peers, self._joining, self._parked = {}, [], None
        for peer in peers:
            peer.close()
