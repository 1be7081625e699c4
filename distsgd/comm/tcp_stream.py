"""A TCP connection between nodes: vectors go from and into memory that the caller owns, without a copy in between.

Buffer sizes are the kernel's, which grows them as needed: a fixed size switches that off, and the limit for one is
smaller (`net.core.wmem_max`) than what the kernel allows itself. Congestion control is the kernel's as well, except for
BBR: it sends at the rate that it has measured, and between the bursts of a step it measures too little.
"""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections.abc import Iterable
from contextlib import suppress

import numpy as np

from distsgd.comm.spinning import SpinPolicy
from distsgd.comm.unix_socket import ConnectionClosedError, WaitTimeoutError

IDLE_S, PROBE_S, PROBES = 5, 5, 3
"""A connection whose other end has vanished is found after IDLE_S + PROBES·PROBE_S seconds, even if nothing is sent."""

Bytes = bytes | bytearray | memoryview | np.ndarray
"""What can be sent and received; arrays are contiguous."""

_PACED = b"bbr"
"""How the names of congestion controls begin that send at a measured rate."""

_BURSTS = b"reno"
"""A congestion control that sends a burst at once, and that every process may use. `cubic` stops the first growth of
its window where round trips vary, and grows slowly from then on."""

_BLOCKED = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Stream:
    """One end of a connection, with or without TLS."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        options = {socket.TCP_NODELAY: 1, socket.TCP_KEEPIDLE: IDLE_S, socket.TCP_KEEPINTVL: PROBE_S}
        for option, value in (options | {socket.TCP_KEEPCNT: PROBES}).items():
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        _send_bursts(sock)
        self._socket = sock
        self._arrived = 0  # bytes of the buffer that `receive_into` is filling
        self.path = f"the connection from {named(*sock.getsockname()[:2])} to {named(*sock.getpeername()[:2])}"
        """The addresses of both ends, for messages."""
        self._readable, self._writable = select.poll(), select.poll()
        self._readable.register(sock, select.POLLIN)
        self._writable.register(sock, select.POLLOUT)

    def fileno(self) -> int:
        """Return the descriptor; it is readable when bytes or the end of the stream have arrived."""
        return self._socket.fileno()

    def send(self, *parts: Bytes, timeout_s: float) -> None:
        """Send all of `parts`, one after the other.

        Raise WaitTimeoutError if the other side has not taken them after `timeout_s`, and ConnectionClosedError if it
        is gone.
        """
        left, deadline = views(parts), 0.0
        while not self.push(left):
            deadline = deadline or time.monotonic() + timeout_s
            if not self._writable.poll(1000 * max(0.0, deadline - time.monotonic())):
                raise WaitTimeoutError(f"{self.path} took no more bytes for {round(timeout_s, 1):g} s")

    def push(self, left: list[memoryview]) -> bool:
        """Send what the kernel takes at once, and remove it from `left`; return whether nothing is left.

        Raise ConnectionClosedError if the other side is gone.
        """
        try:
            while left:
                sent = self._socket.send(left[0]) if len(left) == 1 or self._is_tls() else self._socket.sendmsg(left)
                while left and sent >= len(left[0]):
                    sent -= len(left.pop(0))
                if sent:
                    left[0] = left[0][sent:]
        except _BLOCKED:
            return False
        except OSError as error:
            raise self._closed(error) from None
        return True

    def receive_into(self, buffer: Bytes) -> None:
        """Fill `buffer` with the next bytes.

        If they have not all arrived, raise BlockingIOError; calling this again with the same buffer goes on from there.
        Raise ConnectionClosedError at the end of the stream.
        """
        view = _view(buffer)
        while self._arrived < len(view):
            try:
                count = self._socket.recv_into(view[self._arrived :])
            except _BLOCKED:
                raise BlockingIOError from None
            except OSError as error:
                raise self._closed(error) from None
            if not count:
                raise self._closed(None)
            self._arrived += count
        self._arrived = 0

    def receive_within(self, buffer: Bytes, timeout_s: float) -> None:
        """Fill `buffer`, waiting for up to `timeout_s`; then raise WaitTimeoutError."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                return self.receive_into(buffer)
            except BlockingIOError:
                if not self._readable.poll(1000 * max(0.0, deadline - time.monotonic())):
                    raise WaitTimeoutError(f"nothing arrived for {round(timeout_s, 1):g} s by {self.path}") from None

    def wait_unbounded(self, policy: SpinPolicy | None) -> None:
        """Wait until something can be received, without a timeout; without a policy, block at once."""
        if policy is None:
            self._readable.poll()
        else:
            policy.wait(self._readable)

    def shut_down(self) -> None:
        """Make both sides read the end of the stream. Thread-safe, even while another thread uses the connection."""
        with suppress(OSError):  # already closed
            # Not SSLSocket.shutdown, which would drop the TLS session under the thread that is reading.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection and its descriptor."""
        self._socket.close()

    def _is_tls(self) -> bool:
        return isinstance(self._socket, ssl.SSLSocket)

    def _closed(self, error: OSError | None) -> ConnectionClosedError:
        return ConnectionClosedError(f"{self.path} ended: {error or 'end of stream'}")


def _send_bursts(sock: socket.socket) -> None:
    with suppress(OSError):  # a kernel that knows no such option, such as that of a sandbox
        usual = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
        if usual.startswith(_PACED):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, _BURSTS)


def views(parts: Iterable[Bytes]) -> list[memoryview]:
    """Return the bytes of all parts that have any, for `Stream.push`."""
    return [view for part in parts if len(view := _view(part))]


def _view(buffer: Bytes) -> memoryview:
    if isinstance(buffer, np.ndarray):
        return buffer.data.cast("B") if buffer.size else memoryview(b"")  # an empty array cannot be cast
    return memoryview(buffer).cast("B")


def named(host: str, port: int) -> str:
    """Return an address as it is usually written: that of IPv6 has colons of its own."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
