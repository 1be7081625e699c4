"""Workers on the server's node: bulk data in shared memory, short messages over a socket, no Ray calls during a step.

The server owns the memory: the two parameter buffers, which workers can only read, and the slots that each worker
writes its gradient sums to. A message carries the step, the shards and the buffer, so nothing depends on the order in
which a processor's stores become visible. The worker's side is in endpoint.py, the protocol in messages.py.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import struct
from collections.abc import Callable
from contextlib import suppress

from distsgd.comm import messages
from distsgd.comm.memory import Segment
from distsgd.comm.messages import HEAD, HELLO, MAGIC, TASK, PeerSettings, reply_layout
from distsgd.comm.transport import Answer, PeerFailedError, PeerLostError, worker_name
from distsgd.comm.unix_socket import Connection, ConnectionClosedError
from distsgd.core.reduction import Node, PartialSum, Summation


class SharedMemoryPeer:
    """The server's side of a worker's connection."""

    def __init__(self, connection: Connection, name: str, host: str, slots: Segment, summation: Summation) -> None:
        self.name, self.host, self.weight, self.pid = name, host, 1, connection.peer_pid
        self.path: str | None = None
        self._connection, self._summation = connection, summation
        self._slots = list(slots.rows)
        self.on_close: Callable[[], None] = lambda: None
        self._shards = range(0)
        self._nodes: list[Node] = []
        self._layout = reply_layout(0)

    @classmethod
    def greeted(
        cls, connection: Connection, parameter_buffers: Segment, settings: PeerSettings, core: Callable[[], int | None]
    ) -> SharedMemoryPeer:
        """Do the handshake with a worker and exchange memory; `core` is called to get the worker's core.

        Raise ConnectionClosedError, WaitTimeoutError or ValueError if the other side is not a worker, or is gone.
        """
        connection.wait(messages.HANDSHAKE_S)
        message = connection.receive()
        if len(message) != HELLO.size or not message.startswith(MAGIC):
            raise ValueError("the process that connected is not a worker")
        _, number, parameters = HELLO.unpack(message)
        if parameters != settings.parameters:
            raise ValueError(f"a worker has a net of {parameters} parameters, not {settings.parameters}")
        summation = settings.summation
        slots = Segment.create(summation.max_nodes, settings.parameters, summation.dtype)
        try:
            own_settings = dataclasses.replace(settings, core=core())
            connection.send(own_settings.encode(), (parameter_buffers.descriptor, slots.descriptor))
        finally:
            slots.close()
        return cls(connection, worker_name(number), socket.gethostname(), slots, summation)

    def fileno(self) -> int:
        """See `transport.Peer`."""
        return self._connection.fileno()

    def start(self, step: int, shards: range, buffer: int, *, update_here: bool) -> None:
        """See `transport.Peer`."""
        if shards != self._shards:
            self._shards, self._nodes = shards, self._summation.nodes(shards)
            self._layout = reply_layout(len(self._nodes))
        try:
            self._connection.send(TASK.pack(step, shards.start, shards.stop, buffer, update_here))
        except ConnectionClosedError as error:
            raise PeerLostError(str(error)) from None

    def receive(self) -> Answer:
        """See `transport.Peer`."""
        try:
            message = self._connection.receive()
            if message.startswith(b"F") and len(message) >= HEAD.size:
                raise PeerFailedError(message[HEAD.size :].decode(errors="replace"))
            kind, step, lo, hi, *sums = self._layout.unpack(message)
        except (ConnectionClosedError, struct.error) as error:
            raise PeerLostError(str(error)) from None
        if kind != b"D":
            raise PeerLostError(f"it sends a message of the unknown kind {kind!r}")
        if (lo, hi) != (self._shards.start, self._shards.stop):
            raise PeerLostError(f"it answers for shards {lo} to {hi - 1}, which it was not asked to compute")
        partials = list(map(PartialSum, self._nodes, self._slots, sums[::3], sums[1::3], sums[2::3]))
        return Answer(step, self._shards, partials)

    def close(self, *, kill: bool = False) -> None:
        """See `transport.Peer`."""
        if kill and self.pid > 0:  # 0: not visible from here; killing it would kill this process group
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        self._connection.close()
        on_close, self.on_close = self.on_close, lambda: None
        on_close()
