"""Accepts the workers of a server's own node: one thread listens, and one exchanges greetings with each that connects.

Not everything that connects greets, so the listening thread waits for nobody.
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
"""Seconds after which accepting is tried again, if this process has too many open files or threads for now."""


class Acceptor:
    """Accepts connections for a dispatcher until it is closed."""

    def __init__(self, dispatcher: Dispatcher, settings: PeerSettings, *, cores: int = 0) -> None:
        """Give each worker one of `cores` cores of its own, as long as one is free.

        Without that, where there are as many workers as cores, two of them wake up on one core every now and then, and
        take turns there for a whole step while the other core is idle.
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
            except PermissionError:  # another user's process; the listener goes on
                continue
            except OSError:  # it is closed, or this process has too many open files for now
                if self._closing.wait(RETRY_S):
                    return
                continue
            try:
                threading.Thread(target=self._greet, args=(connection,), name="handshake", daemon=True).start()
            except RuntimeError:  # there are too many threads for now, such as for connections that say nothing
                connection.close()
                self._closing.wait(RETRY_S)

    def _greet(self, connection: Connection) -> None:
        taken: list[int] = []

        def core() -> int | None:
            with suppress(IndexError):  # there are none, or none is free
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
        """Accept no more."""
        self._closing.set()
        self._listener.close()
        self._thread.join()
