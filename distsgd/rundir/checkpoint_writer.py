"""The thread that writes checkpoints."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from distsgd.engine.snapshot import Snapshot
from distsgd.rundir.checkpoint import save


class Writer:
    """Writes checkpoints in a background thread, so that training does not wait for the disk.

    If newer snapshots are submitted while one is being written, only the newest of them is kept.
    """

    def __init__(
        self,
        folder: Path,
        identity: Mapping[str, str],
        *,
        keep: int,
        mlflow_run_id: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._folder, self._identity, self._keep, self._mlflow_run_id = folder, identity, keep, mlflow_run_id
        self._wake = threading.Condition()
        self._pending: Snapshot | None = None
        self._busy = self._closed = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._work, name="checkpoints", daemon=True)
        self._thread.start()

    def submit(self, snapshot: Snapshot) -> None:
        """Queue `snapshot` for writing. Raises the CheckpointError of an earlier one that could not be written."""
        with self._wake:
            self._pending = snapshot
            self._wake.notify_all()
        self.check()

    def check(self) -> None:
        """Raise the error, usually a CheckpointError, that writing has caused since the last call."""
        with self._wake:
            error, self._error = self._error, None
        if error is not None:
            raise error

    def flush(self) -> None:
        """Wait until the newest submitted snapshot is on disk; raises CheckpointError if it could not be written."""
        with self._wake:
            self._wake.wait_for(lambda: self._pending is None and not self._busy)
        self.check()

    def close(self) -> None:
        """Write the pending snapshot and stop the thread."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._wake:
                self._busy = False
                self._wake.notify_all()
                self._wake.wait_for(lambda: self._pending is not None or self._closed)
                snapshot, self._pending = self._pending, None
                if snapshot is None:
                    return
                self._busy = True
            try:
                save(self._folder, snapshot, self._identity, keep=self._keep, mlflow_run_id=self._mlflow_run_id())
            except Exception as error:  # of any kind: re-raised by check(), and flush() never hangs
                with self._wake:
                    self._error = error
