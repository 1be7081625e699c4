"""Accepts connections from other nodes: one thread for all greetings, so that silent connections cost nothing.

A greeting has GREETING_S seconds. If more than MAX_GREETINGS are under way, the oldest is dropped: whoever floods the
port delays the run's own processes, which try again, and takes neither threads nor memory from it.
"""

from __future__ import annotations

import selectors
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from distsgd.comm import tls
from distsgd.comm.tcp_greeting import Introduction, Secret, ServerGreeting
from distsgd.comm.tcp_stream import Stream, named
from distsgd.comm.unix_socket import ConnectionClosedError

GREETING_S = 5.0
"""Seconds that a greeting may take."""

MAX_GREETINGS = 64
"""Greetings that may be under way at a time."""

PAUSE_S = 0.05
"""Seconds before accepting is retried when this process has too many open files."""

BACKLOG = 128


class TcpAddress(NamedTuple):
    """Where a server listens for other nodes."""

    host: str
    port: int
    node: str
    """The node's name, which the server proves to have."""

    tls: bool

    def __str__(self) -> str:
        return named(self.host, self.port)


class _Pending:
    """A connection whose greeting is under way."""

    def __init__(self, sock: socket.socket, greeting: ServerGreeting) -> None:
        self.socket, self.greeting, self.deadline = sock, greeting, time.monotonic() + GREETING_S
        self.encrypting = isinstance(sock, ssl.SSLSocket)
        self.received = bytearray()

    def advance(self) -> bool:
        """Go on with what has arrived; return whether the other side has proved that it belongs to the run.

        Raise BlockingIOError (or the errors of TLS that mean the same) if more has to arrive, and OSError or ValueError
        if the other side is gone or wrong.
        """
        if self.encrypting:
            assert isinstance(self.socket, ssl.SSLSocket)
            self.socket.do_handshake()
            self.encrypting = False
        while self.greeting.needed:
            found = self.socket.recv(self.greeting.needed - len(self.received))
            if not found:
                raise ConnectionResetError("end of stream")
            self.received += found
            if len(self.received) == self.greeting.needed:
                answer = self.greeting.take(bytes(self.received))
                self.received.clear()
                if answer and self.socket.send(answer) != len(answer):
                    raise ConnectionResetError("a greeting does not fit into an empty buffer")
        return True


class TcpAcceptor:
    """Listens on one address of this node, and passes on connections of processes of this run."""

    def __init__(
        self,
        host: str,
        ports: range,
        *,
        node: str,
        parameters: int,
        secret: Secret,
        on_join: Callable[[Stream, Introduction], None],
    ) -> None:
        """Listen on the first free port of `ports`, or on any if it is empty.

        Raise OSError if none is free, or TLS is required and its files cannot be used.
        """
        self._tls = tls.context(server=True)
        self._listener = _listen(host, ports)
        self._listener.setblocking(False)
        self.address = TcpAddress(host, self._listener.getsockname()[1], node, self._tls is not None)
        self._parameters, self._secret, self._on_join = parameters, secret, on_join
        self._pending: dict[int, _Pending] = {}  # by descriptor, oldest first
        self._closing = threading.Event()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._waker, self._wake = socket.socketpair()
        self._selector.register(self._waker, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="tcp-acceptor", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._closing.is_set():
            for key, _ in self._selector.select(self._timeout_s()):
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fd in self._pending:
                    self._advance(key.fd)
            now = time.monotonic()
            for descriptor in [fd for fd, pending in self._pending.items() if pending.deadline < now]:
                self._drop(descriptor)

    def _timeout_s(self) -> float | None:
        """Return how long to wait for something to happen: until the oldest greeting's deadline."""
        oldest = next(iter(self._pending.values()), None)
        return None if oldest is None else max(0.0, oldest.deadline - time.monotonic()) + 0.01

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError:  # too many open files
            self._closing.wait(PAUSE_S)
            return
        sock.setblocking(False)
        try:
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        except OSError:
            sock.close()
            return
        greeting = ServerGreeting(self._secret, self.address.node, self._parameters)
        self._pending[sock.fileno()] = _Pending(sock, greeting)
        self._selector.register(sock, selectors.EVENT_READ)
        if len(self._pending) > MAX_GREETINGS:
            self._drop(next(iter(self._pending)))

    def _advance(self, descriptor: int) -> None:
        pending = self._pending[descriptor]
        try:
            if pending.advance() and pending.greeting.introduction is not None:
                self._forget(descriptor)
                self._on_join(Stream(pending.socket), pending.greeting.introduction)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except (OSError, ValueError, ConnectionClosedError):  # not of this run, or gone
            if descriptor in self._pending:
                self._drop(descriptor)
            else:
                pending.socket.close()

    def _forget(self, descriptor: int) -> _Pending:
        pending = self._pending.pop(descriptor)
        self._selector.unregister(pending.socket)
        return pending

    def _drop(self, descriptor: int) -> None:
        self._forget(descriptor).socket.close()

    def close(self) -> None:
        """Stop listening, and drop the greetings that are under way."""
        self._closing.set()
        with suppress(OSError):
            self._wake.send(b"x")
        self._thread.join()
        for descriptor in list(self._pending):
            self._drop(descriptor)
        self._selector.close()
        for sock in (self._listener, self._waker, self._wake):
            sock.close()


def _listen(host: str, ports: range) -> socket.socket:
    """Return a socket that listens on the first free port of `ports`, or on any if there are none."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    problem: OSError | None = None
    for port in ports or (0,):
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            # A port of which an earlier server's connections are still being closed is free.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, port))
            sock.listen(BACKLOG)
            return sock
        except OSError as error:
            sock.close()
            problem = error
    where = f"port {ports.start} to {ports.stop - 1}" if ports else "any port"
    raise OSError(f"cannot listen on {where} of {host}: {problem}")
