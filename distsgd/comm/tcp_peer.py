"""Peers on other nodes over TCP: the server's side; the other side is in tcp_endpoint.py.

Parameters go out straight from the memory that the server's own workers read, and gradients are received into memory
that the server adds them from. Nothing of a vector's size is allocated or copied in a step.
"""

from __future__ import annotations

import numpy as np

from distsgd.comm.messages import ERROR_BYTES
from distsgd.comm.tcp_greeting import Introduction
from distsgd.comm.tcp_messages import ANSWER, TASK, sums
from distsgd.comm.tcp_stream import Stream
from distsgd.comm.transport import Answer, PeerFailedError, PeerLostError, PeerTimeoutError
from distsgd.comm.unix_socket import ConnectionClosedError, WaitTimeoutError
from distsgd.core.reduction import Node, PartialSum, Summation


class TcpPeer:
    """The server's side of a connection to a worker or an aggregator on another node."""

    def __init__(
        self, stream: Stream, introduction: Introduction, buffers: np.ndarray, summation: Summation, *, timeout_s: float
    ) -> None:
        """`buffers` (2, P) are the server's parameters. A vector may take `timeout_s` to be sent."""
        self.name, self.host, self.pid = introduction.name, introduction.host, introduction.pid
        self.weight = introduction.weight
        self.path: str | None = stream.path
        self._stream, self._buffers, self._summation, self._timeout_s = stream, list(buffers), summation, timeout_s
        # Only the rows that are received into use memory.
        self._rows = list(np.empty((summation.max_nodes, buffers.shape[1]), summation.dtype))
        self._step, self._shards = -1, range(0)
        self._nodes: list[Node] = []
        self._head = bytearray(ANSWER.size)
        self._kind = b""  # of the answer whose head has arrived
        self._payload: bytearray | None = None  # once it has arrived
        self._left = bytearray()
        self._received_rows = 0

    def fileno(self) -> int:
        """See `transport.Peer`."""
        return self._stream.fileno()

    def start(self, step: int, shards: range, buffer: int, *, update_here: bool) -> None:  # noqa: ARG002 - it is not
        """See `transport.Peer`; also raise PeerTimeoutError if the peer does not take the parameters in time."""
        if shards != self._shards:
            self._shards, self._nodes = shards, self._summation.nodes(shards)
        self._step, self._kind, self._payload, self._received_rows = step, b"", None, 0
        self._send(TASK.pack(step, shards.start, shards.stop), self._buffers[buffer])

    def begin_view(self, view: int, step: int) -> None:
        """Tell the other side to serve a view from `step` on; raise as `start` does. See comm.mesh."""
        self._send(TASK.pack(step, -1, view))

    def _send(self, *parts: bytes | np.ndarray) -> None:
        try:
            self._stream.send(*parts, timeout_s=self._timeout_s)
        except ConnectionClosedError as error:
            raise PeerLostError(str(error)) from None
        except WaitTimeoutError as error:
            raise PeerTimeoutError(str(error)) from None

    def receive(self) -> Answer:
        """See `transport.Peer`."""
        try:
            if not self._kind:
                self._stream.receive_into(self._head)
                self._check_head()
            if self._payload is None:
                self._stream.receive_into(self._left)
                self._payload = self._left
            self._check_failure(self._payload)
            while self._received_rows < len(self._nodes):
                self._stream.receive_into(self._rows[self._received_rows])
                self._received_rows += 1
        except ConnectionClosedError as error:
            raise PeerLostError(str(error)) from None
        self._kind = b""  # whatever arrives now is the head of another answer
        values = sums(len(self._nodes)).unpack(self._payload)
        self._payload = None
        partials = list(map(PartialSum, self._nodes, self._rows, values[::3], values[1::3], values[2::3]))
        return Answer(self._step, self._shards, partials)

    def _check_head(self) -> None:
        """Make room for the payload. Raise PeerLostError if the head is not that of the answer that is due."""
        kind, step, lo, hi, size = ANSWER.unpack(self._head)
        expected = sums(len(self._nodes)).size
        if kind not in (b"D", b"F", b"L"):
            raise PeerLostError(f"it sends a message of the unknown kind {kind!r}")
        if not (size == expected if kind == b"D" else 0 <= size <= ERROR_BYTES):
            raise PeerLostError(f"it announces {size} bytes after a message of kind {kind.decode()}")
        # An error may be of the time after an answer, when the rows of the next step are gathered.
        if kind != b"F" and (step, lo, hi) != (self._step, self._shards.start, self._shards.stop):
            raise PeerLostError(f"it answers for shards {lo} to {hi - 1} of step {step + 1}, which are not due")
        self._kind, self._left = kind, bytearray(size)

    def _check_failure(self, payload: bytearray) -> None:
        if self._kind == b"F":
            raise PeerFailedError(payload.decode(errors="replace"))
        if self._kind == b"L":
            raise PeerLostError(payload.decode(errors="replace"))

    def close(self, *, kill: bool = False) -> None:  # noqa: ARG002 - the driver kills processes of other nodes
        """See `transport.Peer`. The process is killed by the driver, which hears of every lost peer."""
        self._stream.close()
