"""Accepts connections from workers on the server's node: one thread listens, one per connection does the handshake.

A process that connects may never send a greeting, so the listening thread does not wait for one.
"""

from __future__ import annotations

import threading
from collections import deque
from contextlib import suppress
from functools import partial

from distsgd.comm.dispatcher import Dispatcher
from distsgd.comm.messages import PeerSettings
from distsgd.comm.shared_memory import SharedMemoryPeer
from distsgd.comm.unix_socket import Connection, ConnectionClosedError, Listener, WaitTimeoutError

RETRY_S = 0.1
"""Seconds before accepting is retried when this process has too many open files or threads."""


class Acceptor:
    """Accepts connections for a dispatcher until it is closed."""

    def __init__(self, dispatcher: Dispatcher, settings: PeerSettings, *, cores: int = 0) -> None:
        """Assign each worker one of `cores` cores, as long as one is free.

        Otherwise, with as many workers as cores, two workers occasionally wake up on the same core and share it for a
        whole step while another core is idle.
        """
        self._dispatcher, self._settings, self._cores = dispatcher, settings, deque(range(cores))
        self._listener, self._closing = Listener.open(), threading.Event()
        self.address = self._listener.name
        self._thread = threading.Thread(target=self._accept, name="acceptor", daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection = self._listener.accept()
            except PermissionError:  # another user's process; keep listening
                continue
            except OSError:  # closed, or this process has too many open files
                if self._closing.wait(RETRY_S):
                    return
                continue
            try:
                threading.Thread(target=self._greet, args=(connection,), name="handshake", daemon=True).start()
            except RuntimeError:  # too many threads, for instance because of connections that never send anything
                connection.close()
                self._closing.wait(RETRY_S)

    def _greet(self, connection: Connection) -> None:
        taken: list[int] = []

        def core() -> int | None:
            with suppress(IndexError):  # no core is free
                taken.append(self._cores.popleft())
            return taken[0] if taken else None

        try:
            peer = SharedMemoryPeer.greeted(connection, self._dispatcher.parameter_buffers, self._settings, core)
        except (OSError, ConnectionClosedError, WaitTimeoutError, ValueError):
            connection.close()
            self._cores.extend(taken)
        else:
            peer.on_close = partial(self._cores.extend, taken)
            self._dispatcher.members.join(peer)

    def close(self) -> None:
        """Stop accepting connections."""
        self._closing.set()
        self._listener.close()
        self._thread.join()
