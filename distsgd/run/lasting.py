"""The files of a run that is a Ray job: they must not lie where Ray deletes them with the job."""

from __future__ import annotations

from pathlib import Path

from distsgd.config import Config
from distsgd.errors import ConfigError, RunDirectoryError
from distsgd.run.observer import Observer
from distsgd.rundir import folders
from distsgd.system.jobs import is_deleted_with_job
from distsgd.tracking import uri as tracking_uri


def check_run_directory(config: Config) -> None:
    """Raise RunDirectoryError if the run directory would be deleted with the job."""
    path = folders.named(config)
    if is_deleted_with_job(folders.RUNS if path is None else path):
        where = f"{str(path)!r} lies" if path else f"is not named, and a new one in {str(folders.RUNS)!r} would lie"
        raise RunDirectoryError(
            f"the run directory {where} in the working directory of a Ray job, which is deleted with the job; name one "
            "on storage that stays, such as --run-dir /shared/runs/mine (run.dir)"
        )


def with_lasting_store(config: Config, observer: Observer) -> Config:
    """Return the configuration with an MLflow store that outlives the job.

    The default store is moved beside the run directory. Raise ConfigError for one that was named and would be deleted.
    """
    if not config.tracking.enabled:
        return config
    uri = tracking_uri.resolve(config.tracking)
    file = tracking_uri.sqlite_path(uri)
    if file is None or not is_deleted_with_job(file):
        return config
    run_dir = folders.named(config)
    if uri != tracking_uri.DEFAULT or run_dir is None:
        raise ConfigError(
            f"the MLflow store {uri!r} lies in the working directory of a Ray job, which is deleted with the job; name "
            f"a server or a file on storage that stays ({tracking_uri.VARIABLE}, or --set tracking.uri=...)"
        )
    moved = f"{tracking_uri.SQLITE}{Path(run_dir).absolute().parent / 'mlflow.db'}"
    observer.note(f"MLflow store: {moved}, because the working directory of a Ray job is deleted with it")
    return config.with_values({"tracking.uri": moved})
