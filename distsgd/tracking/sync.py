"""Sends a run to MLflow after the fact, using only its run directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from distsgd.config import TrackingConfig
from distsgd.errors import RunDirectoryError, TrackingError
from distsgd.rundir import directory as rundir
from distsgd.rundir import lock, result_file
from distsgd.rundir.directory import RunDirectory
from distsgd.rundir.folders import no_run
from distsgd.rundir.journal import Reader, Record
from distsgd.rundir.result import Result
from distsgd.system.secrets import redacted
from distsgd.tracking import description, run_id
from distsgd.tracking import uri as tracking_uri
from distsgd.tracking.description import RunDescription
from distsgd.tracking.failures import reason
from distsgd.tracking.quiet import quiet_mlflow


@dataclass(frozen=True)
class Synced:
    """What MLflow has of a run after a sync."""

    run_id: str
    status: str
    lines: int
    """Lines of the journal, all of which the store has."""
    view: str
    """The command, or the address, that shows the run."""
    notice: str | None = None
    """Why the run is not a child of the one that it was started in; None if it is, or was started in none."""


def sync(path: Path, uri: str | None = None) -> Synced:
    """Send to MLflow everything it lacks of the run in `path`: points, model, learning curve, status.

    The store is `uri`, or by default the one that the run was started with. A run without a result, whose driver was
    killed, becomes FAILED there until it is resumed. Raises RunDirectoryError if no run is there or a driver is at
    work in it, ConfigError if the URI is invalid, TrackingError if sending fails.
    """
    check_files(path)
    with lock.locked(path):
        return sync_locked(path, uri)


def sync_locked(path: Path, uri: str | None = None) -> Synced:
    """Do what `sync` does, in a run directory that holds a run and that the caller has locked."""
    directory, _, _ = rundir.read(path)
    described = description.read(path)
    store_uri = store_of(path, described, uri)
    records = _records(directory)
    result = Result.read(path)
    if result is None and directory.result.exists():
        raise RunDirectoryError(
            f"{str(directory.result)!r} cannot be read as the result of a run: restore it from a backup, or remove it, "
            "which makes the run FAILED until it is resumed"
        )
    if result is not None and result.status == "FINISHED" and not directory.model.is_file():
        raise RunDirectoryError(f"the run in {str(path)!r} has finished, but its model.npz is missing; restore it")
    try:
        with quiet_mlflow():
            from distsgd.tracking.store import Store

            run = Store(store_uri).open_run(path, described, running=False)
            run.send(records)
            run.complete(path, described, result, records)
    except Exception as error:  # mlflow raises its own errors and those of the libraries below it
        raise TrackingError(
            f"the MLflow store {redacted(store_uri)!r} has not received the whole run: "
            f"{reason(error, store_uri)}; start the store and try again, or name another one "
            "with --uri; nothing is sent twice"
        ) from None
    if result is not None and result.mlflow_run_id != run.run_id:
        result_file.replace(directory, mlflow_run_id=run.run_id)
    status = "FAILED" if result is None else result.status
    return Synced(run.run_id, status, len(records), run.view, run.notice)


def store_of(path: Path, described: RunDescription, uri: str | None) -> str:
    """Return the store `uri`, or by default the one that the run in `path` was started with."""
    _, config, _ = rundir.read(path)
    return tracking_uri.resolve(TrackingConfig(uri=uri or described.uri or config.tracking.uri))


def check_files(path: Path) -> None:
    """Raise RunDirectoryError unless a run is in the directory, with files where files belong."""
    try:
        if not (path / "config.json").is_file():
            raise no_run(path)
        for name in ("metrics.jsonl", description.FILE, run_id.FILE, "result.json", "model.npz"):
            if (path / name).is_dir():
                raise RunDirectoryError(
                    f"{str(path / name)!r} is a folder, in the place of a file of the run: move it away, and put the "
                    "file back if there was one"
                )
    except OSError as error:
        raise RunDirectoryError(f"the run directory {str(path)!r} cannot be read: {error.strerror}") from None


def _records(directory: RunDirectory) -> list[Record]:
    try:
        return Reader(directory.journal).new()
    except OSError as error:
        raise RunDirectoryError(
            f"the journal {str(directory.journal)!r} cannot be read: {error.strerror}; restore it from a backup, "
            "MLflow's points come from it"
        ) from None
