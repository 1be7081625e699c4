"""The other side of a TCP connection: a worker or an aggregator on a node without the server executes its tasks."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import numpy as np

from distsgd.comm import tls
from distsgd.comm.endpoint import GradientComputer
from distsgd.comm.spinning import SpinPolicy
from distsgd.comm.tcp_acceptor import TcpAddress
from distsgd.comm.tcp_greeting import (
    MAGIC,
    NONCE_BYTES,
    PROOF_BYTES,
    ClientGreeting,
    GreetingError,
    Introduction,
    Secret,
)
from distsgd.comm.tcp_messages import ANSWER, TASK, encode_error, sums
from distsgd.comm.tcp_stream import Stream
from distsgd.comm.unix_socket import ConnectionClosedError, WaitTimeoutError
from distsgd.core.reduction import PartialSum, Summation
from distsgd.errors import WorkerLostError
from distsgd.system import faults

CONNECT_S = 5.0
"""Seconds for a connection and its greeting, all attempts together."""

RETRY_S = 0.2

LEAST_TRANSFER_S, LONGER = 60.0, 2.0
"""A vector that has begun must be sent or received in LONGER times the server's time for it, and at least in
LEAST_TRANSFER_S seconds: so the server gives up first, and says what happened."""

CONNECT_ERRORS = (OSError, GreetingError, ConnectionClosedError, WaitTimeoutError)
"""The errors that `TcpEndpoint.connect` raises if there is no way to the server."""


class TcpEndpoint:
    """A connection to the server, and the memory that vectors are received into and sent from."""

    def __init__(
        self,
        stream: Stream,
        buffers: np.ndarray,
        summation: Summation,
        *,
        spin: bool,
        role: tuple[str, int],
        timeout_s: float,
    ) -> None:
        """`buffers` (2, P) receive the parameters of even and of odd steps; `role` is for fault injection.

        The server waits up to `timeout_s` for a vector to be sent.
        """
        self._stream, self._role = stream, role
        self._buffers = list(buffers)
        # Only the rows that are written to use memory.
        self._rows = list(np.empty((summation.max_nodes, buffers.shape[1]), summation.dtype))
        self._spin_policy = SpinPolicy() if spin else None
        self._timeout_s = max(LEAST_TRANSFER_S, LONGER * timeout_s)

    @staticmethod
    def connect(address: TcpAddress, secret: Secret, introduction: Introduction, parameters: int) -> Stream:
        """Return a connection to the server that listens at `address`, for a net with `parameters` parameters.

        Raise one of CONNECT_ERRORS if there is none within CONNECT_S, or it does not belong to the run.
        """
        if tls.is_required() != address.tls:
            raise GreetingError(
                f"RAY_USE_TLS is set on {'this node' if tls.is_required() else 'the node of the server'} only"
            )
        context, deadline = tls.context(server=False), time.monotonic() + CONNECT_S
        while True:
            try:
                return _greeted(address, context, secret, introduction, parameters, deadline)
            except (OSError, ConnectionClosedError):  # perhaps dropped, because many others connect
                if time.monotonic() + RETRY_S > deadline:
                    raise
                time.sleep(RETRY_S)

    def serve(self, computer: GradientComputer, serve_view: Callable[[int, int], None] | None = None) -> None:
        """Execute the server's tasks until it closes the connection.

        An error in the computation is sent to the server, which fails with it; on any other problem the server reads
        the end of the stream. `serve_view` is called with the number of a view and a step.
        """
        head = bytearray(TASK.size)
        try:
            with suppress(ConnectionClosedError, WaitTimeoutError):
                while True:
                    self._stream.wait_unbounded(self._spin_policy)
                    self._stream.receive_within(head, self._timeout_s)
                    step, lo, hi = TASK.unpack(head)
                    if lo < 0 and serve_view is not None:
                        serve_view(hi, step)
                        continue
                    flat = self._buffers[step % 2]
                    self._stream.receive_within(flat, self._timeout_s)
                    self._compute(computer, step, flat, range(lo, hi))
        finally:
            self._stream.close()

    def _compute(self, computer: GradientComputer, step: int, flat: np.ndarray, shards: range) -> None:
        """Answer one task, then prefetch for the next one."""
        faults.reached(*self._role, step + 1, "asked")
        try:
            partials = computer.compute(step, flat, shards, self._rows)
            faults.reached(*self._role, step + 1, "computed")
            self._answer(step, shards, partials)
            faults.reached(*self._role, step + 1, "answered")
            computer.prefetch(step + 1, shards, update_here=False)
        except (ConnectionClosedError, WaitTimeoutError):
            raise
        except WorkerLostError as error:  # an aggregator without workers
            self._send(encode_error(b"L", step, shards, error))
        except Exception as error:  # whatever it is, the server has to report it
            self._send(encode_error(b"F", step, shards, error))

    def _answer(self, step: int, shards: range, partials: Sequence[PartialSum]) -> None:
        layout = sums(len(partials))
        head = ANSWER.pack(b"D", step, shards.start, shards.stop, layout.size)
        values = [value for partial in partials for value in partial[2:]]  # loss, examples, weight
        self._send(head + layout.pack(*values), *(partial.gradient for partial in partials))

    def _send(self, *parts: bytes | np.ndarray) -> None:
        self._stream.send(*parts, timeout_s=self._timeout_s)

    def disconnect(self) -> None:
        """Make `serve` return after the current task. Thread-safe."""
        self._stream.shut_down()


def _greeted(
    address: TcpAddress,
    context: ssl.SSLContext | None,
    secret: Secret,
    introduction: Introduction,
    parameters: int,
    deadline: float,
) -> Stream:
    """Connect once, and greet."""

    def left_s() -> float:
        return max(0.05, deadline - time.monotonic())

    sock = socket.create_connection((address.host, address.port), timeout=left_s())
    try:
        if context is not None:
            sock = context.wrap_socket(sock)
        stream = Stream(sock)
        greeting = ClientGreeting(secret, address.node, parameters, introduction)
        stream.send(greeting.hello, timeout_s=left_s())
        challenge, welcome = bytearray(NONCE_BYTES + PROOF_BYTES), bytearray(len(MAGIC))
        stream.receive_within(challenge, left_s())
        stream.send(greeting.proof(bytes(challenge)), timeout_s=left_s())
        stream.receive_within(welcome, left_s())
        if welcome != MAGIC:
            raise GreetingError(f"the process that listens at {address} is not a server of this version of distsgd")
        return stream
    except BaseException:
        sock.close()
        raise
