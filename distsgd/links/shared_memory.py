"""Workers on the server's own node: bulk data in shared memory, short messages on a socket, no Ray call in a step.

The server owns the memory: the two parameter buffers, which workers can only read, and for each worker the rows that
it writes its gradient sums to. A message carries the step, the shards and the buffer, so nothing depends on the order
in which a processor's stores become visible.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import socket
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from distsgd import faults, reduction
from distsgd.links import Answer, PeerFailedError, PeerLostError, worker_name
from distsgd.links.doorbell import Connection, HungUpError, Patience, SilentError
from distsgd.links.memory import Segment
from distsgd.reduction import Partial

HELLO = struct.Struct("<8sqq")  # MAGIC, the worker's number, P
MAGIC = b"distsgd1"
TASK = struct.Struct("<qqqq")  # step, first shard, one past the last, parameter buffer
HEAD = struct.Struct("<cqqq")  # D or F, step, first shard, one past the last; for F, the error's text follows

HANDSHAKE_S = 30.0
"""Seconds in which both sides have to get to know each other."""


@functools.cache
def answer_of(subtrees: int) -> struct.Struct:
    """Return the layout of a D: the head, and of each subtree the loss and the number of examples."""
    return struct.Struct(HEAD.format + subtrees * "dq")


@dataclass(frozen=True)
class Welcome:
    """What a server tells a worker that connects."""

    parameters: int
    """P."""

    num_shards: int
    spin: bool
    """Whether there are cores enough for waits to poll before they block."""

    core: int | None = None
    """Which one of its cores the worker keeps to, counted from 0; none if it need not."""


class MemoryPeer:
    """The server's side of one worker."""

    def __init__(self, connection: Connection, name: str, host: str, slots: Segment, num_shards: int) -> None:
        self.name, self.host, self.weight, self.pid = name, host, 1, connection.peer_pid
        self._connection, self._num_shards = connection, num_shards
        self._slots = list(slots.rows)
        self.on_close: Callable[[], None] = lambda: None
        self._shards = range(0)
        self._nodes: list[reduction.Node] = []
        self._layout = answer_of(0)

    @classmethod
    def welcome(
        cls, connection: Connection, board: Segment, welcome: Welcome, core: Callable[[], int | None]
    ) -> MemoryPeer:
        """Exchange greetings and memory with a worker that has connected; `core` is asked for its core once it has.

        Raises HungUpError, SilentError or ValueError if it is not one, or is gone.
        """
        connection.wait(HANDSHAKE_S)
        message = connection.receive()
        if len(message) != HELLO.size or not message.startswith(MAGIC):
            raise ValueError("what has connected is no worker")
        _, number, parameters = HELLO.unpack(message)
        if parameters != welcome.parameters:
            raise ValueError(f"a worker greets with {parameters} parameters and not with {welcome.parameters}")
        slots = Segment.create(reduction.most_roots(welcome.num_shards), welcome.parameters)
        try:
            told = json.dumps(vars(welcome) | {"core": core()})
            connection.send(told.encode(), (board.descriptor, slots.descriptor))
        finally:
            slots.close()
        return cls(connection, worker_name(number), socket.gethostname(), slots, welcome.num_shards)

    def fileno(self) -> int:
        """See `links.Peer`."""
        return self._connection.fileno()

    def start(self, step: int, shards: range, buffer: int) -> None:
        """See `links.Peer`."""
        if shards != self._shards:
            self._shards, self._nodes = shards, reduction.roots(shards, self._num_shards)
            self._layout = answer_of(len(self._nodes))
        try:
            self._connection.send(TASK.pack(step, shards.start, shards.stop, buffer))
        except HungUpError as error:
            raise PeerLostError(str(error)) from None

    def receive(self) -> Answer:
        """See `links.Peer`."""
        try:
            message = self._connection.receive()
            if message.startswith(b"F") and len(message) >= HEAD.size:
                raise PeerFailedError(message[HEAD.size :].decode(errors="replace"))
            _, step, lo, hi, *sums = self._layout.unpack(message)
        except (HungUpError, struct.error) as error:
            raise PeerLostError(str(error)) from None
        if (lo, hi) != (self._shards.start, self._shards.stop):
            raise PeerLostError(f"it answers for shards {lo} to {hi}, and not for {self._shards}")
        partials = list(map(Partial, self._nodes, self._slots, sums[::2], sums[1::2]))
        return Answer(step, self._shards, partials)

    def close(self, *, kill: bool = False) -> None:
        """See `links.Peer`."""
        if kill and self.pid > 0:  # 0 is a process that cannot be seen from here, and would be this one's whole group
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        self._connection.close()
        on_close, self.on_close = self.on_close, lambda: None
        on_close()


class Computer(Protocol):
    """What a worker does for the link; see worker.Worker."""

    def compute(self, step: int, flat: np.ndarray, shards: range, out: Sequence[np.ndarray]) -> Sequence[Partial]: ...  # noqa: D102
    def prepare(self, step: int, shards: range) -> None: ...  # noqa: D102


class Seat:
    """A worker's side: its place at the server's memory."""

    def __init__(
        self, connection: Connection, board: Segment, slots: Segment, *, number: int, welcome: Welcome
    ) -> None:
        self._connection, self._board, self._slots = connection, list(board.rows), list(slots.rows)
        self._number, self._patience, self._core = number, Patience() if welcome.spin else None, welcome.core

    @classmethod
    def take(cls, address: str, number: int, parameters: int) -> Seat:
        """Connect worker `number` to the server that listens at `address` on this node.

        Raises OSError if there is none to reach, and HungUpError, SilentError or ValueError if it is not a server.
        """
        connection = Connection.to(address)
        try:
            connection.send(HELLO.pack(MAGIC, number, parameters))
            connection.wait(HANDSHAKE_S)
            message, descriptors = connection.receive_descriptors(2)
            try:
                welcome = Welcome(**json.loads(message))
                board = Segment.attach(descriptors[0], 2, parameters, writable=False)
                count = reduction.most_roots(welcome.num_shards)
                slots = Segment.attach(descriptors[1], count, parameters, writable=True)
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
        except BaseException:
            connection.close()
            raise
        return cls(connection, board, slots, number=number, welcome=welcome)

    def serve(self, worker: Computer) -> None:
        """Compute what the server asks for until it hangs up, in this thread, which may be bound to a core for good."""
        connection, patience = self._connection, self._patience
        if self._core is not None:
            _keep_to(self._core)
        with suppress(HungUpError):
            while True:
                connection.wait_patiently(patience)
                step, lo, hi, buffer = TASK.unpack(connection.receive())
                shards = range(lo, hi)
                if faults.ARMED:
                    faults.reached("worker", self._number, step + 1, "asked")
                try:
                    partials = worker.compute(step, self._board[buffer], shards, self._slots)
                except Exception as error:  # whatever it is, the run has to hear of it
                    text = f"{type(error).__name__}: {error}"[:1000]
                    connection.send(HEAD.pack(b"F", step, lo, hi) + text.encode()[:4000])
                    continue
                sums = [value for partial in partials for value in (partial.loss, partial.examples)]
                answer = answer_of(len(partials)).pack(b"D", step, lo, hi, *sums)
                if faults.ARMED:
                    faults.reached("worker", self._number, step + 1, "computed")
                connection.send(answer)
                if faults.ARMED:
                    faults.reached("worker", self._number, step + 1, "answered")
                worker.prepare(step + 1, shards)
        connection.close()

    def leave(self) -> None:
        """Make `serve` return after the computation at hand; any thread may call it."""
        self._connection.hang_up()


def _keep_to(core: int) -> None:
    """Bind the calling thread to one of the cores that it may use, if the system allows that."""
    cores = sorted(os.sched_getaffinity(0))
    with suppress(OSError):  # it is only for speed
        os.sched_setaffinity(0, {cores[core % len(cores)]})


REFUSALS = (OSError, HungUpError, SilentError, ValueError, TypeError)
"""What `Seat.take` raises where shared memory is not to be had."""
