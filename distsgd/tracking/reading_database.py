"""Reads MLflow's tables by a query for each of them, without importing mlflow, which takes seconds.

MLflow's own client asks for the history of each metric of each run alone. The tables have had these columns since
MLflow 1; tests compare what is read with what MLflow's client reads.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import sqlalchemy as sa

from distsgd.tracking import uri as tracking_uri
from distsgd.tracking.reading import ReadRun, row_count

AT_ONCE = 500
"""Runs in one query; databases limit the number of parameters."""

STATES = {1: "RUNNING", 2: "SCHEDULED", 3: "FINISHED", 4: "FAILED", 5: "KILLED"}


def _table(name: str, *columns: str) -> sa.TableClause:
    return sa.table(name, *map(sa.column, columns))


EXPERIMENTS = _table("experiments", "experiment_id", "name", "lifecycle_stage")
RUNS = _table("runs", "run_uuid", "experiment_id", "name", "status", "start_time", "lifecycle_stage")
PARAMS = _table("params", "run_uuid", "key", "value")
TAGS = _table("tags", "run_uuid", "key", "value")
METRICS = _table("metrics", "run_uuid", "key", "step", "value", "timestamp", "is_nan")
INPUTS = _table("inputs", "input_uuid", "source_id", "destination_id")
INPUT_TAGS = _table("input_tags", "input_uuid", "name", "value")
DATASETS = _table("datasets", "dataset_uuid", "dataset_profile")

ACTIVE = "active"
"""The stage of what was not deleted."""


class DatabaseReader:
    """A connection to a store's database, for reading."""

    def __init__(self, uri: str) -> None:
        file = tracking_uri.sqlite_path(uri)
        if file is None:
            self._engine = sa.create_engine(uri)
        else:
            self._engine = sa.create_engine("sqlite://", creator=lambda: _opened(file), poolclass=sa.NullPool)
        self._connection: Any = None

    def __enter__(self) -> Self:
        self._connection = self._engine.connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()
        self._engine.dispose()

    def _rows(self, columns: Sequence[Any], *conditions: Any) -> Sequence[Any]:
        """Return some columns of the rows that fulfil the conditions."""
        rows: Sequence[Any] = self._connection.execute(sa.select(*columns).where(*conditions)).all()
        return rows

    def experiment_names(self) -> list[str]:
        """See reading.experiment_names."""
        return [name for (name,) in self._rows([EXPERIMENTS.c.name], EXPERIMENTS.c.lifecycle_stage == ACTIVE)]

    def experiment(self, name: str, metrics: Sequence[str]) -> list[ReadRun] | None:
        """See reading.read_experiment."""
        table = EXPERIMENTS.c
        rows = self._rows([table.experiment_id], table.name == name, table.lifecycle_stage == ACTIVE)
        ids = [found for (found,) in rows]
        if not ids:
            return None
        columns = [RUNS.c.run_uuid, RUNS.c.start_time]
        found = self._rows(columns, RUNS.c.experiment_id.in_(ids), RUNS.c.lifecycle_stage == ACTIVE)
        return self.runs([run for run, _ in sorted(found, key=lambda row: (row[1] or 0, row[0]))], metrics)

    def runs(self, run_ids: Sequence[str], metrics: Sequence[str]) -> list[ReadRun]:
        """See reading.read_runs."""
        found: dict[str, ReadRun] = {}
        for ids in _parts(run_ids):
            columns = [RUNS.c.run_uuid, RUNS.c.name, RUNS.c.status]
            for run, name, status in self._rows(columns, RUNS.c.run_uuid.in_(ids), RUNS.c.lifecycle_stage == ACTIVE):
                found[run] = ReadRun(run, name or run, STATES.get(status, status))
            ids = [run for run in ids if run in found]
            for run, key, value in self._rows(list(PARAMS.c), PARAMS.c.run_uuid.in_(ids)):
                found[run].params[key] = value
            for run, key, value in self._rows(list(TAGS.c), TAGS.c.run_uuid.in_(ids)):
                found[run].tags[key] = value
            self._read_row_counts(ids, found)
            self._read_points(ids, metrics, found)
        return [found[run] for run in run_ids if run in found]

    def _read_row_counts(self, ids: list[str], found: dict[str, ReadRun]) -> None:
        rows = self._rows(
            [INPUTS.c.destination_id, DATASETS.c.dataset_profile],
            INPUTS.c.destination_id.in_(ids),
            DATASETS.c.dataset_uuid == INPUTS.c.source_id,
            INPUT_TAGS.c.input_uuid == INPUTS.c.input_uuid,
            INPUT_TAGS.c.name == "mlflow.data.context",
            INPUT_TAGS.c.value == "training",
        )
        for run, profile in rows:
            found[run].rows = row_count(profile)

    def _read_points(self, ids: list[str], metrics: Sequence[str], found: dict[str, ReadRun]) -> None:
        asked = sa.select(*METRICS.c).where(METRICS.c.run_uuid.in_(ids), METRICS.c.key.in_(list(metrics)))
        # The cursor's own rows: SQLAlchemy's take as long again, and there are hundreds of thousands.
        rows = self._connection.execute(asked).cursor.fetchall()
        for run, key, step, value, timestamp, is_nan in rows:
            points = found[run].points.setdefault(key, [])
            points.append((step, math.nan if is_nan else value, timestamp))


def _opened(file: Path) -> sqlite3.Connection:
    """Open an SQLite file that stays as it is."""
    return sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True)


def _parts(run_ids: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(run_ids), AT_ONCE):
        yield list(run_ids[start : start + AT_ONCE])
