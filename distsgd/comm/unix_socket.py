"""Short messages between processes on one node, over Unix sockets.

These are `SOCK_SEQPACKET` sockets with an abstract name: message boundaries and order are preserved, nothing is left in
the file system, and when a process dies, for whatever reason, the other side reads the end of the stream within
milliseconds. Abstract names have no file permissions, so the peer's user is checked through the kernel.
"""

from __future__ import annotations

import os
import secrets
import select
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass

from distsgd.comm.spinning import SpinPolicy

LONGEST = 8192
"""Maximum length of a message, in bytes."""


class ConnectionClosedError(Exception):
    """The other side has closed the connection."""


class WaitTimeoutError(Exception):
    """Nothing arrived within the timeout."""


class Connection:
    """One end of a connection."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    @classmethod
    def to(cls, name: str) -> Connection:
        """Connect to the listener `name` on this node; OSError if there is none, or it belongs to another user."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            sock.connect("\0" + name)
            _check_user(sock)
        except BaseException:
            sock.close()
            raise
        return cls(sock)

    def fileno(self) -> int:
        """Return the descriptor; it is readable when a message or the end of the stream has arrived."""
        return self._socket.fileno()

    @property
    def peer_pid(self) -> int:
        """The process ID of the other end, as reported by the kernel."""
        return _credentials(self._socket)[0]

    def send(self, message: bytes, descriptors: tuple[int, ...] = ()) -> None:
        """Send a message; ConnectionClosedError if the other side is gone or no longer reads."""
        try:
            if descriptors:
                socket.send_fds(self._socket, [message], descriptors)
            else:
                self._socket.send(message)
        except OSError as error:  # including BlockingIOError: a peer whose buffer is full does not read
            raise ConnectionClosedError(str(error)) from None

    def wait(self, timeout_s: float) -> None:
        """Wait until something can be received; WaitTimeoutError after `timeout_s`."""
        if not self._poll.poll(1000 * timeout_s):
            raise WaitTimeoutError

    def wait_unbounded(self, policy: SpinPolicy | None) -> None:
        """Wait until something can be received, without a timeout; without a policy, block at once."""
        if policy is None:
            self._poll.poll()
        else:
            policy.wait(self._poll)

    def receive(self) -> bytes:
        """Return the next message; BlockingIOError if there is none, ConnectionClosedError at the end of the stream."""
        try:
            message = self._socket.recv(LONGEST)
        except ConnectionError as error:
            raise ConnectionClosedError(str(error)) from None
        if not message:
            raise ConnectionClosedError("end of stream")
        return message

    def receive_descriptors(self, count: int) -> tuple[bytes, list[int]]:
        """Return a message and its descriptors; ConnectionClosedError if there are not exactly `count`."""
        try:
            message, descriptors, flags, _ = socket.recv_fds(self._socket, LONGEST, count, socket.MSG_CMSG_CLOEXEC)
        except ConnectionError as error:
            raise ConnectionClosedError(str(error)) from None
        more = bool(flags & socket.MSG_CTRUNC)  # the kernel has closed those that did not fit
        if not message or len(descriptors) != count or more:
            for descriptor in descriptors:
                os.close(descriptor)
            found = f"more than {count}" if more else str(len(descriptors))
            raise ConnectionClosedError(f"{found} descriptors, not {count}" if message else "end of stream")
        return message, descriptors

    def shut_down(self) -> None:
        """Make both sides read the end of the stream. Thread-safe, even while another thread uses the connection."""
        with suppress(OSError):  # already closed
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection and its descriptor."""
        self._socket.close()


@dataclass(frozen=True)
class Listener:
    """A listening socket that processes on the node connect to."""

    name: str
    """The abstract name: random, so that only processes that received it through Ray know it."""

    socket: socket.socket

    @classmethod
    def open(cls) -> Listener:
        """Listen on a new name."""
        name = f"distsgd-{secrets.token_hex(16)}"
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.bind("\0" + name)
        sock.listen(128)
        return cls(name, sock)

    def accept(self) -> Connection:
        """Wait for a connection and return it; OSError if it is another user's, or the listener was closed."""
        sock, _ = self.socket.accept()
        try:
            _check_user(sock)
        except BaseException:
            sock.close()
            raise
        return Connection(sock)

    def close(self) -> None:
        """Stop listening; a thread that is blocked in `accept` gets an OSError."""
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        finally:
            self.socket.close()


def _credentials(sock: socket.socket) -> tuple[int, int]:
    """Return the process ID and user ID of the other end."""
    size = struct.calcsize("3i")
    pid, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return pid, uid


def _check_user(sock: socket.socket) -> None:
    uid = _credentials(sock)[1]
    if uid != os.getuid():
        raise PermissionError(f"the process at the other end runs as user {uid}, this one as {os.getuid()}")
