"""Reads the runs of an experiment and their curves, in few requests for all runs together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from distsgd.errors import ConfigError, TrackingError
from distsgd.system.secrets import redacted
from distsgd.tracking import uri as tracking_uri
from distsgd.tracking.failures import reason
from distsgd.tracking.quiet import quiet_mlflow

Point = tuple[int, float, float]
"""Step, value, and milliseconds since 1970."""


@dataclass
class ReadRun:
    """A run as the store has it."""

    run_id: str
    name: str
    status: str
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    rows: int | None = None
    """Number of training rows, if the run has such a data set."""
    points: dict[str, list[Point]] = field(default_factory=dict)
    thinned: bool = False
    """Whether the store has more points of a metric than it gave."""


def read_experiment(uri: str, name: str, metrics: Sequence[str]) -> list[ReadRun] | None:
    """Return the runs of an experiment that were not deleted, oldest first; None if there is no such experiment.

    ConfigError if there is no such store, TrackingError if it cannot be read.
    """
    found: list[ReadRun] | None = _read(uri, "experiment", name, metrics)
    return found


def read_runs(uri: str, run_ids: Sequence[str], metrics: Sequence[str]) -> list[ReadRun]:
    """Return the runs with these IDs, as far as the store has them; errors as `read_experiment`."""
    found: list[ReadRun] = _read(uri, "runs", run_ids, metrics)
    return found


def experiment_names(uri: str) -> list[str]:
    """Return the names of all experiments; errors as `read_experiment`."""
    found: list[str] = _read(uri, "experiment_names")
    return found


def _read(uri: str, method: str, *arguments: Any) -> Any:
    file = tracking_uri.sqlite_path(uri)
    if file is not None and not file.is_file():
        raise ConfigError(
            f"there is no MLflow store at {str(file)!r}: name run directories, give the store with --uri, or set "
            f"{tracking_uri.VARIABLE}"
        )
    try:
        if uri.startswith(("http", "databricks")):
            with quiet_mlflow():
                from distsgd.tracking.reading_server import ServerReader

                return getattr(ServerReader(uri), method)(*arguments)
        from distsgd.tracking.reading_database import DatabaseReader

        with DatabaseReader(uri) as database:
            return getattr(database, method)(*arguments)
    except Exception as error:  # mlflow and SQLAlchemy raise errors of their own and of the libraries below them
        raise TrackingError(f"the MLflow store {redacted(uri)!r} cannot be read: {reason(error, uri)}") from None


def row_count(profile: str | None) -> int | None:
    """Return the number of rows in the profile of a data set in MLflow, or None."""
    try:
        rows = json.loads(profile or "{}").get("num_rows")
    except (ValueError, AttributeError):
        return None
    return rows if isinstance(rows, int) else None
