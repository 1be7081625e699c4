"""An MLflow store: a run in it is found or created. Every call may fail and be retried.

Only this file, stored_run.py, points.py, nesting.py and model.py import mlflow. That takes seconds: it is imported only
for a run that is tracked.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from mlflow.entities import (
    Experiment,
    Run,
)
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from distsgd.config import TrackingConfig
from distsgd.errors import TrackingError
from distsgd.system.scratch import locked_folder
from distsgd.system.secrets import redacted
from distsgd.tracking import nesting
from distsgd.tracking import run_id as run_ids
from distsgd.tracking import uri as tracking_uri
from distsgd.tracking.description import RUN_KEY_TAG, RunDescription
from distsgd.tracking.run_id import RunId
from distsgd.tracking.stored_run import StoredRun, runs_of_key
from distsgd.tracking.sweep import Standing


class _DatabaseAttempts:
    """Has mlflow try to connect to a database a few times: by itself it blocks for 100 seconds in ten attempts.

    mlflow has no setting for it, so its constant is changed while any thread of this process is connecting.
    """

    COUNT = 3

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users, self._before = 0, 0

    @contextlib.contextmanager
    def limited(self) -> Iterator[None]:
        """Limit the attempts of this thread, and of all others meanwhile."""
        from mlflow.store.db import utils

        with self._lock:
            if not self._users:
                self._before, utils.MAX_RETRY_COUNT = utils.MAX_RETRY_COUNT, self.COUNT
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    utils.MAX_RETRY_COUNT = self._before


_database_attempts = _DatabaseAttempts()


def create_database(path: Path) -> None:
    """Create the file of an SQLite store, with MLflow's tables in it, unless there is a file.

    MLflow creates the tables in place, one change after another: two processes that do so at once, or one that ends
    meanwhile, leave a file that MLflow never opens again. Here it appears whole. If it cannot, MLflow says why.
    """
    if path.exists() or not path.parent.is_dir() or path.name.startswith((":memory:", "file:")):
        return
    with locked_folder() as folder:
        made, beside = folder / "mlflow.db", path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        MlflowClient(f"{tracking_uri.SQLITE}{made}")
        try:
            shutil.copyfile(made, beside)
            os.link(beside, path)  # which replaces no file that another process has made meanwhile
        except OSError:
            pass
        finally:
            beside.unlink(missing_ok=True)


class Store:
    """A connection to a store."""

    def __init__(self, uri: str) -> None:
        with contextlib.nullcontext() if uri.startswith("http") else _database_attempts.limited():
            file = tracking_uri.sqlite_path(uri)
            if file is not None:
                create_database(file)
            # MLflow keeps its connections by URI: a relative path would lead to a folder that was the current one once.
            is_file = file is not None and file.is_file()
            self._uri, self._client = uri, MlflowClient(tracking_uri.absolute(uri) if is_file else uri)
        self._notice: str | None = None

    def ping(self) -> None:
        """Return if the store answers."""
        self._client.search_experiments(max_results=1)

    def send_standing(self, standing: Standing) -> None:
        """Bring the parent run of a sweep up to date."""
        nesting.update_parent(self._client, self._experiment(standing.experiment).experiment_id, standing)

    def open_run(self, path: Path, description: RunDescription, *, running: bool) -> StoredRun:
        """Return the MLflow run of a run directory, with parameters, tags and datasets; create it if there is none.

        With `running`, its status becomes RUNNING.
        """
        run = self._find(path, description) or self._create(description)
        shown = tracking_uri.absolute(redacted(self._uri))
        same = shown == description.uri
        pages = description.link_uri if same else tracking_uri.link_uri(TrackingConfig(), self._uri)
        found = RunId(run.info.run_id, run.info.experiment_id, shown, pages)
        run_ids.write(path, found)
        if running and run.info.status != "RUNNING":
            self._client.update_run(run.info.run_id, status="RUNNING")
        stored = StoredRun(self._client, run, self._notice, tracking_uri.view_command(found, path))
        stored.describe(description)
        return stored

    def _find(self, path: Path, description: RunDescription) -> Run | None:
        known = run_ids.read(path)
        if known is not None:
            try:
                run = self._client.get_run(known.run_id)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
            else:
                if run.info.lifecycle_stage == "deleted":
                    raise TrackingError(
                        f"the run {known.run_id} was deleted there; `mlflow runs restore` brings it back"
                    )
                return run
        experiment = self._client.get_experiment_by_name(description.experiment)
        if experiment is None:
            return None
        runs = runs_of_key(self._client, experiment.experiment_id, description.run_key)
        return runs[0] if runs else None

    def _create(self, description: RunDescription) -> Run:
        """Create the run and return the first with its key: a request that seemed to fail may have created one too."""
        experiment, key = self._experiment(description.experiment), description.run_key
        parent = self._parent(description, experiment)
        run = self._client.create_run(
            experiment.experiment_id,
            start_time=description.began_ms,
            tags={RUN_KEY_TAG: key} | ({} if parent is None else {nesting.PARENT_TAG: parent}),
            run_name=description.name,
        )
        runs = runs_of_key(self._client, experiment.experiment_id, key)
        return runs[0] if runs else run

    def _parent(self, description: RunDescription, experiment: Experiment) -> str | None:
        """Return the ID of the run that a new run is a child of; None if there is none, or if it is elsewhere."""
        found, began = experiment.experiment_id, description.began_ms
        if description.parent is not None:
            parent = nesting.named_parent(self._client, found, description.parent, began, description.tags)
            return str(parent.info.run_id)
        if description.enclosing is not None:
            self._notice = nesting.why_not_child(self._client, description.enclosing, found, experiment.name)
        return None if self._notice is not None else description.enclosing

    def _experiment(self, name: str) -> Experiment:
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            path = tracking_uri.sqlite_path(self._uri)
            # Artifacts go beside an SQLite file, whatever the current folder is.
            folder = None if path is None else (path.parent / "mlruns" / quote(name, safe="")).as_uri()
            try:
                self._client.create_experiment(name, artifact_location=folder)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            experiment = self._client.get_experiment_by_name(name)
        if experiment is None or experiment.lifecycle_stage == "deleted":
            raise TrackingError(f"the experiment {name!r} was deleted there; restore it, or set tracking.experiment")
        return experiment
