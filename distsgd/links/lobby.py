"""Where the workers of a node come in: a thread that listens, and seats whoever greets as a worker."""

from __future__ import annotations

import threading

from distsgd.links.crew import Crew
from distsgd.links.doorbell import HungUpError, Listener, SilentError
from distsgd.links.shared_memory import MemoryPeer, Welcome


class Lobby:
    """Accepts connections for a crew until it is closed."""

    def __init__(self, crew: Crew, welcome: Welcome) -> None:
        self._crew, self._welcome = crew, welcome
        self._listener = Listener.open()
        self.address = self._listener.name
        self._thread = threading.Thread(target=self._accept, name="lobby", daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection = self._listener.accept()
            except PermissionError:  # another user's process; the listener goes on
                continue
            except OSError:
                return
            try:
                self._crew.join(MemoryPeer.welcome(connection, self._crew.board, self._welcome))
            except (HungUpError, SilentError, ValueError, KeyError):
                connection.close()

    def close(self) -> None:
        """Accept no more."""
        self._listener.close()
        self._thread.join()
