"""One run in an MLflow store: found or created, brought up to date, completed. Every call may fail and be retried.

No point is recorded twice. A journal line never changes, so a point that is sent again is identical to the last digit,
and a store that has it ignores it. On connecting, the store is asked what it has; after a failure, when it
is unknown what has arrived, a new connection is made.

Only this file and model.py import mlflow. That takes seconds, so they are imported only for a run that is tracked.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from mlflow.entities import (
    Dataset,
    DatasetInput,
    Experiment,
    InputTag,
    LoggedModel,
    LoggedModelOutput,
    LoggedModelStatus,
    Metric,
    Param,
    Run,
    RunTag,
)
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from distsgd.errors import TrackingError
from distsgd.rundir.directory import CONFIG, CONFUSION_MATRIX, PER_CLASS
from distsgd.rundir.journal import Record
from distsgd.rundir.result import Result
from distsgd.system.scratch import locked_folder
from distsgd.system.secrets import redacted
from distsgd.tracking import note, table
from distsgd.tracking import run_id as run_ids
from distsgd.tracking import uri as tracking_uri
from distsgd.tracking.description import RUN_KEY_TAG, DatasetDescription, RunDescription
from distsgd.tracking.quiet import importing
from distsgd.tracking.run_id import RunId

METRICS_PER_REQUEST = 1000
MAX_PARAMETER_LENGTH = 6000
MAX_MODEL_PARAMETER_LENGTH = 500

NOT_IN_NAMES = "/:.%\"'"
"""Characters that MLflow refuses in a model's name."""

BEST = "best/val_accuracy"
"""The highest validation accuracy so far. It is not in the journal."""

MODEL = "model"
"""Name of the folder that the model is saved in."""


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


class Store:
    """A connection to a store."""

    def __init__(self, uri: str) -> None:
        with contextlib.nullcontext() if uri.startswith("http") else _database_attempts.limited():
            self._uri, self._client = uri, MlflowClient(uri)

    def ping(self) -> None:
        """Return if the store answers."""
        self._client.search_experiments(max_results=1)

    def open_run(self, path: Path, description: RunDescription, *, running: bool) -> StoredRun:
        """Return the MLflow run of a run directory, with parameters, tags and datasets; create it if there is none.

        With `running`, its status becomes RUNNING.
        """
        run = self._find(path, description) or self._create(description)
        shown = tracking_uri.absolute(redacted(self._uri))
        run_ids.write(path, RunId(run.info.run_id, run.info.experiment_id, shown))
        if running and run.info.status != "RUNNING":
            self._client.update_run(run.info.run_id, status="RUNNING")
        stored = StoredRun(self._client, run)
        view = tracking_uri.view_command(self._uri, run.info.experiment_id, run.info.run_id, path)
        stored.describe(description, view)
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
        run = self._client.create_run(
            experiment.experiment_id,
            start_time=description.began_ms,
            tags={RUN_KEY_TAG: key},
            run_name=description.name,
        )
        runs = runs_of_key(self._client, experiment.experiment_id, key)
        return runs[0] if runs else run

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


class StoredRun:
    """A run in the store."""

    def __init__(self, client: MlflowClient, run: Run) -> None:
        self._client, self._run = client, run
        self.run_id: str = run.info.run_id
        self.experiment_id: str = run.info.experiment_id
        self._best = 0.0
        self._known: dict[str, set[int]] = {
            key: {metric.step for metric in client.get_metric_history(self.run_id, key)} for key in run.data.metrics
        }

    def describe(self, description: RunDescription, view: str) -> None:
        """Log parameters, tags and datasets of a new run; parameters changed on resuming become tags."""
        have = self._run.data.params
        wanted = {
            _recorded_name(key, have): value[:MAX_PARAMETER_LENGTH] for key, value in description.parameters.items()
        }
        if not have:
            self._client.log_batch(self.run_id, params=[Param(key, value) for key, value in wanted.items()])
        changed = {f"resumed.{key}": value for key, value in wanted.items() if have and have.get(key) != value}
        self._tag(description.tags | changed | {"distsgd.view": view})
        if description.note and note.TAG not in self._run.data.tags:
            self._tag(note.tags(description.note))
        if self._run.inputs is None or not self._run.inputs.dataset_inputs:
            self._client.log_inputs(self.run_id, datasets=[_dataset(dataset) for dataset in description.datasets])

    def send(self, records: Sequence[Record]) -> None:
        """Log the points of journal lines that the store does not have yet."""
        points = [
            Metric(key, float(value), record["timestamp_ms"], record["step"])
            for record in records
            for key, value in (record | self._best_so_far(record)).items()
            if "/" in key and record["step"] not in self._known.get(key, ())
        ]
        for start in range(0, len(points), METRICS_PER_REQUEST):
            self._client.log_batch(self.run_id, metrics=points[start : start + METRICS_PER_REQUEST])

    def _best_so_far(self, record: Record) -> dict[str, float]:
        """Return the metric BEST at a validation. Lines come in order, from the beginning of the journal."""
        if "val/accuracy" not in record:
            return {}
        self._best = max(self._best, float(record["val/accuracy"]))
        return {BEST: self._best}

    def complete(
        self, path: Path, description: RunDescription, result: Result | None, records: Sequence[Record]
    ) -> None:
        """Log the end of the run: the model and the learning curve if it finished, then the status.

        A run without a result is FAILED.
        """
        self._delete_duplicates(description.run_key)
        if result is not None and result.status == "FINISHED":
            self._tag({"weights_sha256": str(result.weights_sha256)})
            self._log_model(path, description, result, records)
            self._log_figure(records)
            self._log_tables(path)
        self._client.log_artifact(self.run_id, str(path / CONFIG))
        if result is not None:
            self._note(result, description.note)
        self._show_in_table(description.parameters)
        end = records[-1]["timestamp_ms"] if records else None
        self._client.set_terminated(self.run_id, status="FAILED" if result is None else result.status, end_time=end)

    def _delete_duplicates(self, key: str) -> None:
        """Delete empty runs with the same key, left by requests that seemed to fail and were retried."""
        for run in runs_of_key(self._client, self.experiment_id, key):
            if run.info.run_id != self.run_id and not run.data.metrics:
                self._client.delete_run(run.info.run_id)

    def _note(self, result: Result, opening: str) -> None:
        """Put the summary before the description that the run began with, unless somebody has written another one."""
        have = self._client.get_run(self.run_id).data.tags
        if opening and have.get(note.DIGEST_TAG) == note.digest(have.get(note.TAG, "")):
            self._tag(note.tags(note.ending(result, opening)))

    def _show_in_table(self, parameters: Mapping[str, str]) -> None:
        """Give the experiment's table of runs columns for the metrics and for these parameters."""
        stored = self._client.get_experiment(self.experiment_id).tags.get(table.TAG)
        view = table.view(stored, parameters)
        if view != stored:
            self._client.set_experiment_tag(self.experiment_id, table.TAG, view)

    def _tag(self, tags: Mapping[str, str]) -> None:
        have = self._run.data.tags
        new = [RunTag(key, value) for key, value in tags.items() if have.get(key) != value]
        if new:
            self._client.log_batch(self.run_id, tags=new)

    def _log_figure(self, records: Sequence[Record]) -> None:
        with importing:
            from distsgd.rundir.figure import draw_learning_curve

        with locked_folder() as folder:
            figure = Path(folder, "learning_curve.svg")
            draw_learning_curve(records, figure)
            self._client.log_artifact(self.run_id, str(figure))

    def _log_tables(self, path: Path) -> None:
        """Log the tables on the held-out rows: recall of each class, and the confusion matrix if there is one."""
        for file in (path / PER_CLASS, path / CONFUSION_MATRIX):
            if file.is_file():
                self._client.log_artifact(self.run_id, str(file))

    def _log_model(self, path: Path, description: RunDescription, result: Result, records: Sequence[Record]) -> None:
        """Log the model unless it already was; if a failure interrupted that, start over."""
        with importing:
            from distsgd.tracking import model as tracking_model

        logged = self._run.outputs.model_outputs if self._run.outputs is not None else []
        if any(output.step == result.steps for output in logged):
            return
        # A run that was continued has a model of the shorter run, too.
        weights, known = {"weights_sha256": str(result.weights_sha256)}, {output.model_id for output in logged}
        found = self._client.search_logged_models([self.experiment_id], f"source_run_id = '{self.run_id}'")
        begun = [m for m in found if m.model_id not in known and (weights | m.tags) == (m.tags | weights)]
        model = begun[0] if begun else self._create_model(description, weights)
        if model.status != LoggedModelStatus.READY:
            with locked_folder() as folder:
                saved = Path(folder, MODEL)
                tracking_model.save(saved, path / "model.npz", dataclasses.asdict(description.model), logged=model)
                self._client.log_model_artifacts(model.model_id, str(saved))
            self._client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        self._log_model_metrics(model.model_id, description, records)
        self._client.log_outputs(self.run_id, [LoggedModelOutput(model.model_id, result.steps)])

    def _create_model(self, description: RunDescription, tags: dict[str, str]) -> LoggedModel:
        name = description.datasets[0].name.removesuffix(" (training)") if description.datasets else ""
        return self._client.create_logged_model(
            self.experiment_id,
            "".join("-" if letter in NOT_IN_NAMES else letter for letter in name) or MODEL,
            source_run_id=self.run_id,
            tags=tags,
            params={key: value[:MAX_MODEL_PARAMETER_LENGTH] for key, value in description.parameters.items()},
        )

    def _log_model_metrics(self, model_id: str, description: RunDescription, records: Sequence[Record]) -> None:
        """Link the last validation to the model and to the held-out rows."""
        rows = next((dataset for dataset in description.datasets if dataset.context == "validation"), None)
        record = next((record for record in reversed(records) if "val/accuracy" in record), None)
        if rows is None or record is None:
            return
        for key in ("val/accuracy", "val/loss"):
            self._client.log_metric(
                self.run_id,
                key,
                float(record[key]),
                timestamp=record["timestamp_ms"],
                step=record["step"],
                model_id=model_id,
                dataset_name=rows.name,
                dataset_digest=rows.digest,
            )


def runs_of_key(client: MlflowClient, experiment_id: str, key: str) -> list[Run]:
    """Return the runs that were created for the run with this key, in a stable order."""
    order = ["attributes.start_time ASC", "attributes.run_id ASC"]
    return list(client.search_runs([experiment_id], f"tags.`{RUN_KEY_TAG}` = '{key}'", order_by=order))


def _recorded_name(key: str, have: Mapping[str, str]) -> str:
    """Return the name by which a run has the parameter: runs of distsgd 0.1 have `lr` for `optim.lr`."""
    section, _, name = key.partition(".")
    return name if section in ("model", "optim", "train", "run") and key not in have and name in have else key


def _dataset(description: DatasetDescription) -> DatasetInput:
    dataset = Dataset(
        name=description.name,
        digest=description.digest,
        source_type="local",
        source=json.dumps({"uri": description.source}),
        schema=json.dumps(description.schema),
        profile=json.dumps({"num_rows": description.rows}),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", description.context)])
