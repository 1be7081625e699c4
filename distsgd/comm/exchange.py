"""One exchange: the shards of a step go to the peers, and every gradient comes back once, whoever is lost meanwhile.

Shards are pure functions, so what a lost peer owes is computed by the others in the same step, with the same bits.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

from distsgd.comm.membership import Membership
from distsgd.comm.transport import Peer, PeerFailedError, PeerLostError, PeerTimeoutError
from distsgd.core import reduction
from distsgd.core.reduction import PartialSum
from distsgd.errors import TrainingError


class Exchange:
    """What is asked and answered in one step."""

    def __init__(self, members: Membership, step: int, buffer: int, timeout_s: float) -> None:
        self._members, self._step, self._buffer, self._timeout_s = members, step, buffer, timeout_s
        self._deadline = time.monotonic() + timeout_s
        self.busy: dict[int, tuple[Peer, range]] = {}
        """By descriptor: the peers that compute, with their shards."""
        self.owed: deque[range] = deque()
        """Shards that nobody computes: those of peers that were lost."""
        self.answers: dict[int, Sequence[PartialSum]] = {}
        """By descriptor: the newest answer of each peer, whose arrays the peer overwrites when it is asked again."""
        self._kept: list[PartialSum] = []  # copies of answers whose peers were asked again, or lost

    def start(self, descriptor: int, peer: Peer, shards: range) -> None:
        """Have a peer compute `shards`; if it is lost, they are owed."""
        try:
            peer.start(self._step, shards, self._buffer)
            self.busy[descriptor] = (peer, shards)
        except PeerLostError as error:
            self._lose(descriptor, shards, f"hung up: {error}")

    def receive(self, descriptor: int) -> None:
        """Take in the answer of a peer, if it has come, or that it is gone.

        Raises TrainingError if its computation failed.
        """
        peer, shards = self.busy.pop(descriptor, (self._members.peers[descriptor], range(0)))
        try:
            answer = peer.receive()
            if (answer.step, answer.shards) != (self._step, shards):
                raise PeerLostError(f"it answers for shards {_named(answer.shards)} of step {answer.step + 1}")
            self.answers[descriptor] = answer.partials
        except BlockingIOError:
            self.busy[descriptor] = (peer, shards)
        except PeerFailedError as error:
            raise TrainingError(f"{peer.name} on {peer.host} failed in step {self._step + 1}: {error}") from None
        except PeerTimeoutError as error:
            self._lose(descriptor, shards, str(error), kill=True)
        except PeerLostError as error:
            self._lose(descriptor, shards, f"died: {error}")

    def collect(self) -> int | None:
        """Receive what has come, waiting for it until the deadline; return whose answer was the last one, if it was."""
        ready = self._members.poll.poll(1000 * max(0.0, self._deadline - time.monotonic()))
        last = None
        for descriptor, _ in ready:
            self.receive(descriptor)
            if not self.busy and descriptor in self.answers:
                last = descriptor
        if not ready:
            for descriptor, (_, shards) in list(self.busy.items()):
                del self.busy[descriptor]
                problem = f"has not answered for {self._timeout_s:g} s while it computed shards {_named(shards)}"
                self._lose(descriptor, shards, problem, kill=True)
        return last

    def reassign(self) -> None:
        """Give what lost peers owe to peers that have nothing to do."""
        idle = [(descriptor, peer) for descriptor, peer in self._members.peers.items() if descriptor not in self.busy]
        while self.owed and idle:
            run = self.owed.popleft()
            parts = [run[part.start : part.stop] for part in reduction.assign(min(len(idle), len(run)), len(run))]
            for part in parts:
                descriptor, peer = idle.pop()
                self._keep(descriptor)
                self.start(descriptor, peer, part)
            self._deadline = time.monotonic() + self._timeout_s

    def partials(self) -> list[PartialSum]:
        """Return all that has been answered; the arrays are valid until the peers are asked again."""
        return [partial for partials in self.answers.values() for partial in partials] + self._kept

    def _lose(self, descriptor: int, shards: range, problem: str, *, kill: bool = False) -> None:
        """Do without a peer from now on; what it has answered in this step stays good, as a copy."""
        self._keep(descriptor)
        if shards:
            self.owed.append(shards)
        self._members.lose(descriptor, self._step, problem, kill=kill)

    def _keep(self, descriptor: int) -> None:
        """Copy a peer's answer in this step out of memory that is about to be written to, or to go."""
        partials = self.answers.pop(descriptor, ())
        self._kept += [partial._replace(gradient=partial.gradient.copy()) for partial in partials]


def _named(run: range) -> str:
    return f"{run.start} to {run.stop - 1}" if len(run) > 1 else f"{run.start}"
