"""The peers of a server or an aggregator: dispatches the shards of a step and collects every gradient, whoever dies.

Shards are pure functions, so what a lost peer owed is computed by the others in the same step, with the same bits.
Peers that come take their shards over at the next step.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from distsgd.comm.memory import Segment
from distsgd.comm.transport import Peer, PeerFailedError, PeerLostError
from distsgd.comm.unix_socket import SPIN_S
from distsgd.core import reduction
from distsgd.core.reduction import PartialSum
from distsgd.errors import TrainingError, WorkerLostError

SINGLE_PEER_WAIT_MS = 5
"""Milliseconds for which a step may wait for one peer alone, deaf to another one's death."""


class LostPeer(NamedTuple):
    """A peer that was given up."""

    name: str
    host: str
    pid: int
    """See `links.Peer`: another process may go by this name by now."""
    step: int
    """The step, counted from 1, that it was lost in."""

    problem: str
    """A clause on what was found."""


class InterruptedStepError(Exception):
    """A step without workers was waiting for one, and was told to stop."""


@dataclass
class _Step:
    """What is going on in one exchange."""

    number: int
    buffer: int
    busy: dict[int, tuple[Peer, range]] = field(default_factory=dict)
    owed: deque[range] = field(default_factory=deque)
    answers: dict[int, Sequence[PartialSum]] = field(default_factory=dict)
    """By descriptor: the newest answer of each peer, whose arrays the peer overwrites when it is asked again."""
    kept: list[PartialSum] = field(default_factory=list)
    """Copies of answers whose peers had to be asked again."""
    deadline: float = 0.0


class Dispatcher:
    """Peers, in the order in which they came, and the two parameter buffers that they read."""

    def __init__(self, parameters: int, *, timeout_s: float, arrival_timeout_s: float, spin: bool) -> None:
        self.parameter_buffers = Segment.create(2, parameters)
        self._timeout_s, self._arrival_timeout_s, self._spin_s = timeout_s, arrival_timeout_s, SPIN_S if spin else 0.0
        self._peers: dict[int, Peer] = {}  # by descriptor
        self._plan: list[tuple[int, Peer, range]] = []
        self._planned: range | None = None
        self._poll = select.poll()
        # The descriptor of who answered last in some step; it may be another peer's by now, and a worse guess.
        self._slowest: int | None = None
        self._slowest_poll = select.poll()
        self._arrivals = threading.Condition()
        self._coming: list[Peer] = []
        self._lost: list[LostPeer] = []
        self._interrupted = False

    @property
    def buffers(self) -> np.ndarray:
        """The two parameter buffers (2, P) that `exchange` chooses from."""
        return self.parameter_buffers.rows

    def join(self, peer: Peer) -> None:
        """Take in a peer, from the next step on; any thread may call it."""
        with self._arrivals:
            self._coming.append(peer)
            self._arrivals.notify_all()

    def size(self) -> int:
        """Return the number of workers, those that come at the next step included."""
        with self._arrivals:
            return sum(peer.weight for peer in [*self._peers.values(), *self._coming])

    def reweigh(self, name: str, weight: int) -> None:
        """Let the peer of that name stand for so many workers from the next step on."""
        with self._arrivals:
            for peer in [*self._peers.values(), *self._coming]:
                if peer.name == name:
                    peer.weight = weight
            self._planned = None

    def take_lost_peers(self) -> list[LostPeer]:
        """Return who was lost since the last call."""
        with self._arrivals:
            lost, self._lost = self._lost, []
        return lost

    def interrupt(self) -> None:
        """Make an exchange that has no peers raise InterruptedStepError in place of waiting for one."""
        with self._arrivals:
            self._interrupted = True
            self._arrivals.notify_all()

    def exchange(self, step: int, buffer: int, shards: range) -> list[PartialSum]:
        """Return the gradients of `shards` for step `step`, with the parameters in `buffers[buffer]`.

        The arrays are valid until the next call. Raises WorkerLostError if no peer is left and none comes in time,
        TrainingError if a computation fails.
        """
        if self._coming or shards != self._planned:
            self._assign_shards(shards)
        now = _Step(step, buffer, deadline=time.monotonic() + self._timeout_s)
        for descriptor, peer, run in self._plan:
            self._start(now, descriptor, peer, run)
        if not self._plan:  # nobody is here yet
            now.owed.append(shards)
        self._spin(len(now.busy))
        self._await_slowest(now)
        while now.busy or now.owed:
            if not self._peers:
                self._wait_for_arrival(now, shards)
            if now.owed:
                self._hand_out(now)
            if now.busy:
                self._collect(now)
        return [partial for partials in now.answers.values() for partial in partials] + now.kept

    def _assign_shards(self, shards: range) -> None:
        """Give the peers that are here, and those that have come, contiguous runs of `shards` by their weight."""
        with self._arrivals:
            for peer in self._coming:
                self._peers[peer.fileno()] = peer
                self._poll.register(peer.fileno(), select.POLLIN)
            self._coming = []
            weights = [peer.weight for peer in self._peers.values()]  # which `reweigh` may change
            runs = iter(reduction.assign(sum(weights), len(shards)) if weights else ())
            self._plan = []
            for descriptor, peer in self._peers.items():
                own = [next(runs) for _ in range(peer.weight)]
                run = range(shards.start + own[0].start, shards.start + own[-1].stop)
                if run:
                    self._plan.append((descriptor, peer, run))
            self._planned = shards

    def _start(self, now: _Step, descriptor: int, peer: Peer, run: range) -> None:
        try:
            peer.start(now.number, run, now.buffer)
            now.busy[descriptor] = (peer, run)
        except PeerLostError as error:
            now.owed.append(run)
            self._lose(now, descriptor, peer, f"hung up: {error}")

    def _spin(self, count: int) -> None:
        """Poll for a while, where there are idle cores; blocking and waking up takes longer than a small step."""
        if self._spin_s:
            end = time.perf_counter() + self._spin_s
            while len(self._poll.poll(0)) < count and time.perf_counter() < end:
                os.sched_yield()

    def _await_slowest(self, now: _Step) -> None:
        """Sleep until the peer answers that was last before, and receive from all who have by then.

        There is nothing to do sooner, and to wake up for each answer takes the core from a peer that still computes.
        If it takes longer than SINGLE_PEER_WAIT_MS nothing is received here: `_collect` then listens to everybody.
        """
        if self._slowest in now.busy and self._slowest_poll.poll(SINGLE_PEER_WAIT_MS):
            for descriptor, _ in self._poll.poll(0):
                self._receive(now, descriptor)

    def _collect(self, now: _Step) -> None:
        """Receive what has come, waiting for it until the deadline."""
        patience = max(0.0, now.deadline - time.monotonic())
        ready = self._poll.poll(1000 * patience)
        for descriptor, _ in ready:
            self._receive(now, descriptor)
            if not now.busy and descriptor in now.answers and descriptor != self._slowest:
                self._slowest, self._slowest_poll = descriptor, select.poll()
                self._slowest_poll.register(descriptor, select.POLLIN)
        if not ready:
            for descriptor, (peer, run) in list(now.busy.items()):
                del now.busy[descriptor]
                now.owed.append(run)
                problem = f"has not answered for {self._timeout_s:g} s while it computed shards {_named(run)}"
                self._lose(now, descriptor, peer, problem, kill=True)

    def _receive(self, now: _Step, descriptor: int) -> None:
        """Take in the answer of a peer, if it has come, or that it is gone."""
        peer, run = now.busy.pop(descriptor, (self._peers[descriptor], range(0)))
        try:
            answer = peer.receive()
            if (answer.step, answer.shards) != (now.number, run):
                raise PeerLostError(f"it answers for shards {answer.shards} of step {answer.step + 1}")
            now.answers[descriptor] = answer.partials
        except BlockingIOError:
            now.busy[descriptor] = (peer, run)
        except PeerFailedError as error:
            raise TrainingError(f"{peer.name} on {peer.host} failed in step {now.number + 1}: {error}") from None
        except PeerLostError as error:
            if run:
                now.owed.append(run)
            self._lose(now, descriptor, peer, f"died: {error}")

    def _lose(self, now: _Step, descriptor: int, peer: Peer, problem: str, *, kill: bool = False) -> None:
        """Give a peer up; what it has answered in this step stays good, as a copy."""
        self._keep(now, descriptor)
        del self._peers[descriptor]
        self._poll.unregister(descriptor)
        peer.close(kill=kill)
        self._planned = None
        with self._arrivals:
            self._lost.append(LostPeer(peer.name, peer.host, peer.pid, now.number + 1, problem))

    def _keep(self, now: _Step, descriptor: int) -> None:
        """Copy a peer's answer in this step out of memory that is about to be written to, or to go."""
        partials = now.answers.pop(descriptor, ())
        now.kept += [partial._replace(gradient=partial.gradient.copy()) for partial in partials]

    def _hand_out(self, now: _Step) -> None:
        """Give what lost peers owed to peers that have nothing to do."""
        idle = [(d, peer) for d, peer in self._peers.items() if d not in now.busy]
        while now.owed and idle:
            run = now.owed.popleft()
            parts = [run[part.start : part.stop] for part in reduction.assign(min(len(idle), len(run)), len(run))]
            for part in parts:
                descriptor, peer = idle.pop()
                self._keep(now, descriptor)
                self._start(now, descriptor, peer, part)
            now.deadline = time.monotonic() + self._timeout_s

    def _wait_for_arrival(self, now: _Step, shards: range) -> None:
        """Wait until a peer comes and assign shards to it; its first shards are what is owed."""
        with self._arrivals:
            self._arrivals.wait_for(lambda: self._coming or self._interrupted, self._arrival_timeout_s)
            if self._interrupted:
                raise InterruptedStepError
            if not self._coming:
                raise WorkerLostError(
                    f"no worker is left in step {now.number + 1}, and none came within {self._arrival_timeout_s:g} s"
                )
        self._assign_shards(shards)

    def close(self) -> None:
        """Hang up on all peers."""
        with self._arrivals:
            peers = [*self._peers.values(), *self._coming]
            self._peers, self._coming = {}, []
        for peer in peers:
            peer.close()


def _named(run: range) -> str:
    return f"{run.start} to {run.stop - 1}" if len(run) > 1 else f"{run.start}"
