"""One exchange: sends the shards of a step to the peers and collects every gradient once, even if peers are lost.

The gradient of a shard is a pure function, so other peers compute a lost peer's shards in the same step, with the same
bits.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

from distsgd.comm.deadlines import Deadlines
from distsgd.comm.membership import Membership
from distsgd.comm.transport import Peer, PeerFailedError, PeerLostError, PeerTimeoutError
from distsgd.core import reduction
from distsgd.core.reduction import PartialSum
from distsgd.errors import TrainingError

LOOK_S = 1.0
"""Longest wait without a look at the clock, in seconds. If it takes longer, this process was stopped meanwhile."""


class Exchange:
    """The requests and answers of one step."""

    def __init__(self, members: Membership, step: int, buffer: int, deadlines: Deadlines, *, update_here: bool) -> None:
        self._members, self._step, self._buffer, self._deadlines = members, step, buffer, deadlines
        self._update_here = update_here
        # Seconds that `collect` has waited. If the whole machine was paused, it counts as LOOK_S at most.
        self._waited_s = 0.0
        self._earliest_s = deadlines.least_s  # no peer's time is over before that
        self._asked_s: dict[int, float] = {}  # when peers were asked that were not asked at the beginning
        self.busy: dict[int, tuple[Peer, range]] = {}
        """The peers that are computing and their shards, by descriptor."""
        self.owed: deque[range] = deque()
        """Shards that no peer is computing: those of lost peers."""
        self.answers: dict[int, Sequence[PartialSum]] = {}
        """The newest answer of each peer, by descriptor; the peer overwrites the arrays when it gets another task."""
        self._kept: list[PartialSum] = []  # copies of answers whose peers got another task or were lost

    def start(self, descriptor: int, peer: Peer, shards: range) -> None:
        """Send `shards` to a peer; if it is lost, add them to `owed`."""
        try:
            peer.start(self._step, shards, self._buffer, update_here=self._update_here)
            self.busy[descriptor] = (peer, shards)
        except PeerTimeoutError as error:
            self._lose(descriptor, shards, str(error), kill=True)
        except PeerLostError as error:
            self._lose(descriptor, shards, f"closed the connection: {error}")

    def receive(self, descriptor: int) -> None:
        """Receive a peer's answer if it has arrived; mark the peer as lost if it is gone.

        Raise TrainingError if its computation failed.
        """
        peer, shards = self.busy.pop(descriptor, (self._members.peers[descriptor], range(0)))
        try:
            answer = peer.receive()
            if (answer.step, answer.shards) != (self._step, shards):
                raise PeerLostError(f"it answers for shards {_named(answer.shards)} of step {answer.step + 1}")
            self.answers[descriptor] = answer.partials
            if self._waited_s or self._deadlines.unsettled:
                took_s = self._waited_s - self._asked_s.get(descriptor, 0.0)
                self._deadlines.learn(descriptor, len(shards), took_s)
        except BlockingIOError:
            if shards:  # an idle peer may wake the server for nothing
                self.busy[descriptor] = (peer, shards)
        except PeerFailedError as error:
            raise TrainingError(f"{peer.name} on {peer.host} failed in step {self._step + 1}: {error}") from None
        except PeerTimeoutError as error:
            self._lose(descriptor, shards, str(error), kill=True)
        except PeerLostError as error:
            self._lose(descriptor, shards, f"died: {error}")

    def collect(self) -> int | None:
        """Wait for answers and receive them; mark peers as lost whose time is over.

        Return the descriptor of the peer whose answer was the last outstanding one, or None if others are outstanding.
        """
        began, wait_s = time.monotonic(), min(LOOK_S, max(0.0, self._earliest_s - self._waited_s))
        ready = self._members.poll.poll(1000 * wait_s)
        self._waited_s += min(time.monotonic() - began, wait_s)
        last = None
        for descriptor, _ in ready:
            self.receive(descriptor)
            if not self.busy and descriptor in self.answers:
                last = descriptor
        if not ready and self._waited_s >= self._earliest_s:
            self._lose_overdue()
        return last

    def _lose_overdue(self) -> None:
        """Mark the peers as lost whose time is over, and find out when the next one's will be."""
        self._earliest_s = self._waited_s + self._deadlines.least_s
        for descriptor, (peer, shards) in list(self.busy.items()):
            timeout_s = self._deadlines.timeout_s(descriptor, len(shards))
            deadline_s = self._asked_s.get(descriptor, 0.0) + timeout_s
            if deadline_s > self._waited_s:
                self._earliest_s = min(self._earliest_s, deadline_s)
                continue
            del self.busy[descriptor]
            problem = f"has not answered for {round(timeout_s, 2):g} s while it computed shards {_named(shards)}"
            problem += f", by {peer.path}" if peer.path else ""
            self._lose(descriptor, shards, problem, kill=True)

    def reassign(self) -> None:
        """Assign the shards of lost peers to idle peers."""
        idle = [(descriptor, peer) for descriptor, peer in self._members.peers.items() if descriptor not in self.busy]
        while self.owed and idle:
            run = self.owed.popleft()
            parts = [run[part.start : part.stop] for part in reduction.assign(min(len(idle), len(run)), len(run))]
            for part in parts:
                descriptor, peer = idle.pop()
                self._keep(descriptor)
                self._asked_s[descriptor] = self._waited_s
                self.start(descriptor, peer, part)

    def partials(self) -> list[PartialSum]:
        """Return the partial sums of all answers; the arrays are valid until the peers get their next task."""
        return [partial for partials in self.answers.values() for partial in partials] + self._kept

    def _lose(self, descriptor: int, shards: range, problem: str, *, kill: bool = False) -> None:
        """Mark a peer as lost; its answer in this step remains valid, as a copy."""
        self._keep(descriptor)
        if shards:
            self.owed.append(shards)
        self._members.lose(descriptor, self._step, problem, kill=kill)

    def _keep(self, descriptor: int) -> None:
        """Copy a peer's answer in this step, because its memory is about to be overwritten or freed."""
        partials = self.answers.pop(descriptor, ())
        self._kept += [partial._replace(gradient=partial.gradient.copy()) for partial in partials]


def _named(run: range) -> str:
    return f"{run.start} to {run.stop - 1}" if len(run) > 1 else f"{run.start}"
