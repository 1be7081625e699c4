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

from distsgd.comm.memory import Segment
from distsgd.comm.transport import Answer, PeerFailedError, PeerLostError, worker_name
from distsgd.comm.unix_socket import Connection, ConnectionClosedError, SpinPolicy, WaitTimeoutError
from distsgd.core import reduction
from distsgd.core.reduction import PartialSum
from distsgd.system import faults

HELLO = struct.Struct("<8sqq")  # MAGIC, the worker's number, P
MAGIC = b"distsgd1"
TASK = struct.Struct("<qqqq")  # step, first shard, one past the last, parameter buffer
HEAD = struct.Struct("<cqqq")  # D or F, step, first shard, one past the last; for F, the error's text follows

HANDSHAKE_S = 30.0
"""Seconds in which both sides have to get to know each other."""


@functools.cache
def reply_layout(subtrees: int) -> struct.Struct:
    """Return the layout of a D: the head, and of each subtree the loss and the number of examples."""
    return struct.Struct(HEAD.format + subtrees * "dq")


@dataclass(frozen=True)
class PeerSettings:
    """What a server tells a worker that connects."""

    parameters: int
    """P."""

    num_shards: int
    spin: bool
    """Whether there are cores enough for waits to poll before they block."""

    core: int | None = None
    """Which one of its cores the worker keeps to, counted from 0; none if it need not."""


class SharedMemoryPeer:
    """The server's side of one worker."""

    def __init__(self, connection: Connection, name: str, host: str, slots: Segment, num_shards: int) -> None:
        self.name, self.host, self.weight, self.pid = name, host, 1, connection.peer_pid
        self._connection, self._num_shards = connection, num_shards
        self._slots = list(slots.rows)
        self.on_close: Callable[[], None] = lambda: None
        self._shards = range(0)
        self._nodes: list[reduction.Node] = []
        self._layout = reply_layout(0)

    @classmethod
    def welcome(
        cls, connection: Connection, parameter_buffers: Segment, welcome: PeerSettings, core: Callable[[], int | None]
    ) -> SharedMemoryPeer:
        """Exchange greetings and memory with a worker that has connected; `core` is asked for its core once it has.

        Raises ConnectionClosedError, WaitTimeoutError or ValueError if it is not one, or is gone.
        """
        connection.wait(HANDSHAKE_S)
        message = connection.receive()
        if len(message) != HELLO.size or not message.startswith(MAGIC):
            raise ValueError("what has connected is no worker")
        _, number, parameters = HELLO.unpack(message)
        if parameters != welcome.parameters:
            raise ValueError(f"a worker greets with {parameters} parameters and not with {welcome.parameters}")
        slots = Segment.create(reduction.max_subtrees(welcome.num_shards), welcome.parameters)
        try:
            told = json.dumps(vars(welcome) | {"core": core()})
            connection.send(told.encode(), (parameter_buffers.descriptor, slots.descriptor))
        finally:
            slots.close()
        return cls(connection, worker_name(number), socket.gethostname(), slots, welcome.num_shards)

    def fileno(self) -> int:
        """See `links.Peer`."""
        return self._connection.fileno()

    def start(self, step: int, shards: range, buffer: int) -> None:
        """See `links.Peer`."""
        if shards != self._shards:
            self._shards, self._nodes = shards, reduction.maximal_subtrees(shards, self._num_shards)
            self._layout = reply_layout(len(self._nodes))
        try:
            self._connection.send(TASK.pack(step, shards.start, shards.stop, buffer))
        except ConnectionClosedError as error:
            raise PeerLostError(str(error)) from None

    def receive(self) -> Answer:
        """See `links.Peer`."""
        try:
            message = self._connection.receive()
            if message.startswith(b"F") and len(message) >= HEAD.size:
                raise PeerFailedError(message[HEAD.size :].decode(errors="replace"))
            _, step, lo, hi, *sums = self._layout.unpack(message)
        except (ConnectionClosedError, struct.error) as error:
            raise PeerLostError(str(error)) from None
        if (lo, hi) != (self._shards.start, self._shards.stop):
            raise PeerLostError(f"it answers for shards {lo} to {hi}, and not for {self._shards}")
        partials = list(map(PartialSum, self._nodes, self._slots, sums[::2], sums[1::2]))
        return Answer(step, self._shards, partials)

    def close(self, *, kill: bool = False) -> None:
        """See `links.Peer`."""
        if kill and self.pid > 0:  # 0 is a process that cannot be seen from here, and would be this one's whole group
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        self._connection.close()
        on_close, self.on_close = self.on_close, lambda: None
        on_close()


class GradientComputer(Protocol):
    """What an endpoint needs of a worker; see engine.worker.Worker."""

    def compute(self, step: int, flat: np.ndarray, shards: range, out: Sequence[np.ndarray]) -> Sequence[PartialSum]:
        """Return the partial sums of a run of shards, with their gradients in `out`."""
        ...

    def prefetch(self, step: int, shards: range) -> None:
        """Gather the rows of shards that are likely to be computed next."""
        ...


class Endpoint:
    """A worker's side: its location at the server's memory."""

    def __init__(
        self, connection: Connection, parameter_buffers: Segment, slots: Segment, *, number: int, welcome: PeerSettings
    ) -> None:
        self._connection, self._parameter_buffers, self._slots = (
            connection,
            list(parameter_buffers.rows),
            list(slots.rows),
        )
        self._number, self._patience, self._core = number, SpinPolicy() if welcome.spin else None, welcome.core

    @classmethod
    def connect(cls, address: str, number: int, parameters: int) -> Endpoint:
        """Connect worker `number` to the server that listens at `address` on this node.

        Raises OSError if none can be reached, and ConnectionClosedError, WaitTimeoutError or ValueError if what
        listens there is not a server.
        """
        connection = Connection.to(address)
        try:
            connection.send(HELLO.pack(MAGIC, number, parameters))
            connection.wait(HANDSHAKE_S)
            message, descriptors = connection.receive_descriptors(2)
            try:
                welcome = PeerSettings(**json.loads(message))
                parameter_buffers = Segment.attach(descriptors[0], 2, parameters, writable=False)
                count = reduction.max_subtrees(welcome.num_shards)
                slots = Segment.attach(descriptors[1], count, parameters, writable=True)
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
        except BaseException:
            connection.close()
            raise
        return cls(connection, parameter_buffers, slots, number=number, welcome=welcome)

    def serve(self, worker: GradientComputer) -> None:
        """Compute what the server asks for until it hangs up, in this thread, which may be bound to a core for good."""
        connection, patience = self._connection, self._patience
        if self._core is not None:
            _keep_to(self._core)
        with suppress(ConnectionClosedError):
            while True:
                connection.wait_unbounded(patience)
                step, lo, hi, buffer = TASK.unpack(connection.receive())
                shards = range(lo, hi)
                if faults.ARMED:
                    faults.reached("worker", self._number, step + 1, "asked")
                try:
                    partials = worker.compute(step, self._parameter_buffers[buffer], shards, self._slots)
                except Exception as error:  # whatever it is, the run has to hear of it
                    text = f"{type(error).__name__}: {error}"[:1000]
                    connection.send(HEAD.pack(b"F", step, lo, hi) + text.encode()[:4000])
                    continue
                sums = [value for partial in partials for value in (partial.loss, partial.examples)]
                answer = reply_layout(len(partials)).pack(b"D", step, lo, hi, *sums)
                if faults.ARMED:
                    faults.reached("worker", self._number, step + 1, "computed")
                connection.send(answer)
                if faults.ARMED:
                    faults.reached("worker", self._number, step + 1, "answered")
                worker.prefetch(step + 1, shards)
        connection.close()

    def disconnect(self) -> None:
        """Make `serve` return after the computation at hand; any thread may call it."""
        self._connection.shut_down()


def _keep_to(core: int) -> None:
    """Bind the calling thread to one of the cores that it may use, if the system allows that."""
    cores = sorted(os.sched_getaffinity(0))
    with suppress(OSError):  # it is only for speed
        os.sched_setaffinity(0, {cores[core % len(cores)]})


CONNECT_ERRORS = (OSError, ConnectionClosedError, WaitTimeoutError, ValueError, TypeError)
"""What `Endpoint.connect` raises where shared memory is not to be had."""
