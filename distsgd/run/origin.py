"""How a run starts: as a new run, or resumed from its run directory."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from distsgd.config import IN_MEMORY, Config
from distsgd.engine.snapshot import Snapshot
from distsgd.engine.spec import RunSpec
from distsgd.errors import DataError, RunDirectoryError
from distsgd.run.continuing import check_is_longer, resumed_config
from distsgd.run.observer import Observer
from distsgd.rundir import checkpoint, folders, lock
from distsgd.rundir import directory as rundir
from distsgd.rundir.classifier import Classifier, weights_sha256
from distsgd.rundir.directory import RunDirectory
from distsgd.rundir.result import Result


@dataclass(frozen=True)
class NewRun:
    """A new run. Its directory is created only after all checks have passed."""

    config: Config
    path: Path | None
    """None: a new folder below `runs/`."""
    name: str
    """The name of the run directory, to which a number is added if there is such a folder below `runs/`."""

    resumed = False

    @classmethod
    def of(cls, config: Config) -> NewRun:
        """Return the run; RunDirectoryError if a directory was given and is not empty."""
        path = folders.named(config)
        if path is not None:
            folders.check_new(path)
        return cls(config, path, path.resolve().name if path is not None else folders.default_name(config))

    def start(self, data_digest: str, observer: Observer) -> Snapshot | None:  # noqa: ARG002
        """Return None: the run begins before its first step."""
        return None

    def open(self, spec: RunSpec, stack: contextlib.ExitStack) -> RunDirectory:
        """Create the run directory and lock it until `stack` is closed."""
        path = folders.make_default(self.name) if self.path is None else self.path
        stack.enter_context(lock.locked(path))
        folders.check_new(path)
        return rundir.create(path, resolved=spec.config, requested=self.config, data_digest=spec.data.digest)


@dataclass(frozen=True)
class ResumedRun:
    """A run that is resumed from its newest valid checkpoint."""

    config: Config
    """The run's original configuration, with the values that were given now."""
    directory: RunDirectory
    data_digest: str
    finished: Result | None
    """The result, if the run has already finished."""
    longer: bool
    """Whether the run is continued beyond the end that it was configured with until now."""

    resumed = True

    @property
    def name(self) -> str:
        """The name of the run directory."""
        return self.directory.path.resolve().name

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to do."""
        return self.finished is not None and not self.longer

    @classmethod
    def of(cls, given: Config, stack: contextlib.ExitStack) -> ResumedRun:
        """Return the run in `run.dir`, or the newest of this configuration, and lock its directory.

        Raises ConfigError if a value given now would change the result, RunDirectoryError if there is no such run.
        """
        path = folders.named(given) or folders.find_resumable(given)
        directory, stored, data_digest = rundir.read(path)
        config = resumed_config(stored, given, path)
        stack.enter_context(lock.locked(path))
        rundir.remove_unfinished(path)
        finished, longer = _finished(directory), config.digest() != stored.digest()
        if longer and finished is not None:
            check_is_longer(config, finished, path)
        return cls(config, directory, data_digest, finished, longer)

    def start(self, data_digest: str, observer: Observer) -> Snapshot | None:
        """Return the state of the newest valid checkpoint; None if the run ended before its first one.

        Raises RunDirectoryError if the data has changed, or if there are checkpoints and none is valid.
        """
        path = self.directory.path
        if data_digest != self.data_digest:
            given = self.config.data.train
            rows = "the rows passed to train()" if given == IN_MEMORY else f"the rows of {given!r}"
            raise RunDirectoryError(
                f"{rows} are not those that the run in {str(path)!r} began with; give the same data, or start a new run"
            )
        identity = rundir.identity(self.directory, data_digest)
        newest, problems = checkpoint.load_newest(self.directory.checkpoints, identity)
        for problem in problems:
            observer.note(f"warning: {problem}")
        if newest is None and problems:
            raise RunDirectoryError(
                f"none of the checkpoints in {str(self.directory.checkpoints)!r} is valid, so the run cannot "
                "be resumed; restore them from a backup, or remove that folder to start again at step 0"
            )
        if newest is None and self.finished is not None:
            raise RunDirectoryError(
                f"the run in {str(path)!r} has finished, and cannot be continued without its last checkpoint: there is "
                f"none in {str(self.directory.checkpoints)!r}; restore it from a backup, or start a new run"
            )
        if newest is None:
            observer.note(f"the run in {str(path)!r} has no checkpoint yet, and begins again at step 0")
        return newest

    def open(self, spec: RunSpec, stack: contextlib.ExitStack) -> RunDirectory:  # noqa: ARG002
        """Return the run directory, which is already locked; it has the new length from now on."""
        if self.longer:
            rundir.lengthen(self.directory, resolved=spec.config, requested=self.config, data_digest=self.data_digest)
        return self.directory


def _finished(directory: RunDirectory) -> Result | None:
    """Return the result of a run that has finished and whose model is as it was written."""
    result = Result.read(directory.path)
    if result is None or result.status != "FINISHED":
        return None
    try:
        whole = weights_sha256(Classifier.load(directory.model).flat) == result.weights_sha256
    except DataError:
        whole = False
    return result if whole else None  # else the run goes on from its last checkpoint, and writes the model again
