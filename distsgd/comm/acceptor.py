"""Where the workers of a node come in: a thread that listens, and one for each greeting, as not all who come greet."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import suppress
from functools import partial

from distsgd.comm.dispatcher import Dispatcher
from distsgd.comm.shared_memory import PeerSettings, SharedMemoryPeer
from distsgd.comm.unix_socket import Connection, ConnectionClosedError, Listener, WaitTimeoutError

RETRY_S = 0.1
"""Seconds after which a connection that could not be accepted is tried again."""


class Acceptor:
    """Accepts connections for a dispatcher until it is closed."""

    def __init__(self, dispatcher: Dispatcher, welcome: PeerSettings, *, cores: int = 0) -> None:
        """Give each worker one of `cores` cores of its own, as long as one is free.

        Without that, where there are as many workers as cores, two of them wake up on one core every now and then, and
        take turns there for a whole step while the other core is idle.
        """
        self._dispatcher, self._welcome, self._cores = dispatcher, welcome, deque(range(cores))
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
            threading.Thread(target=self._greet, args=(connection,), name="greeting", daemon=True).start()

    def _greet(self, connection: Connection) -> None:
        taken: list[int] = []

        def core() -> int | None:
            with suppress(IndexError):  # there are none, or none is free
                taken.append(self._cores.popleft())
            return taken[0] if taken else None

        try:
            peer = SharedMemoryPeer.welcome(connection, self._dispatcher.parameter_buffers, self._welcome, core)
        except (OSError, ConnectionClosedError, WaitTimeoutError, ValueError):
            connection.close()
            self._cores.extend(taken)
        else:
            peer.on_close = partial(self._cores.extend, taken)
            self._dispatcher.join(peer)

    def close(self) -> None:
        """Accept no more."""
        self._closing.set()
        self._listener.close()
        self._thread.join()
