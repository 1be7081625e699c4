"""An evaluation as metrics and artifacts of its run in MLflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from distsgd.errors import TrackingError
from distsgd.rundir import lock
from distsgd.system.secrets import redacted
from distsgd.tracking import description
from distsgd.tracking.failures import reason
from distsgd.tracking.quiet import quiet_mlflow
from distsgd.tracking.sync import Synced, check_files, store_of, sync_locked

PREFIX = "evaluate/"
"""Beginning of the metrics' names."""

ARTIFACTS = "evaluation"
"""Folder of the artifacts."""


def log_evaluation(
    path: Path, metrics: Mapping[str, float], files: Sequence[Path], *, prefix: str = PREFIX, artifacts: str = ARTIFACTS
) -> Synced:
    """Log metrics and files to the MLflow run of a run directory; first what it lacks of the run.

    Errors are those of `sync`.
    """
    check_files(path)
    with lock.locked(path):
        synced = sync_locked(path)
        described = description.read(path)
        uri = store_of(path, described, None)
        try:
            with quiet_mlflow():
                from distsgd.tracking.store import Store

                stored = Store(uri).open_run(path, described, running=False)
                named = {f"{prefix}{name}": value for name, value in metrics.items()}
                stored.log_evaluation(named, files, artifacts)
        except Exception as error:  # mlflow raises its own errors and those of the libraries below it
            raise TrackingError(
                f"the MLflow store {redacted(uri)!r} has not received the evaluation: {reason(error, uri)}; start the "
                "store and try again"
            ) from None
    return synced
