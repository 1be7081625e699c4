"""When a run writes checkpoints, and which state it continues from after losing its parameter server."""

from __future__ import annotations

import time

from distsgd.config import CheckpointConfig
from distsgd.engine.snapshot import Snapshot
from distsgd.run.log import RunLog
from distsgd.rundir import checkpoint
from distsgd.rundir import directory as rundir
from distsgd.rundir.checkpoint_writer import Writer
from distsgd.rundir.directory import RunDirectory
from distsgd.system import faults
from distsgd.tracking import run_id


class Checkpointing:
    """Writes checkpoints in the background, each after the journal lines up to its step are on disk."""

    def __init__(
        self, directory: RunDirectory, config: CheckpointConfig, *, data_digest: str, start: Snapshot, log: RunLog
    ) -> None:
        self._folder, self._every_s = directory.checkpoints, config.every_s
        self._start, self._log = start, log
        self._identity = rundir.identity(directory, data_digest)
        self._writer = Writer(
            self._folder,
            self._identity,
            keep=config.keep,
            mlflow_run_id=lambda: run_id.known(directory.path),
        )
        self.newest = start
        """The newest state that has been submitted as a checkpoint."""
        self._submitted = time.monotonic()

    def is_due(self) -> bool:
        """Return whether a checkpoint within the epoch is due."""
        return time.monotonic() - self._submitted >= self._every_s

    def submit(self, snapshot: Snapshot) -> None:
        """Queue a checkpoint for writing. Raises the CheckpointError of an earlier one that could not be written."""
        self._log.sync()
        self._writer.submit(snapshot)
        faults.reached("driver", 0, snapshot.step, "checkpointed")
        self.newest, self._submitted = snapshot, time.monotonic()

    def reload(self) -> Snapshot:
        """Return the state of the newest valid checkpoint, or the run's start if there is none."""
        self._writer.flush()
        newest, problems = checkpoint.load_newest(self._folder, self._identity)
        for problem in problems:
            self._log.warn(problem)
        self.newest = newest or self._start
        return self.newest

    def check(self) -> None:
        """Raise the CheckpointError of a checkpoint that could not be written."""
        self._writer.check()

    def flush(self) -> None:
        """Wait until all checkpoints are on disk; CheckpointError if one could not be written."""
        self._writer.flush()

    def close(self) -> None:
        """Stop the writer thread."""
        self._writer.close()
