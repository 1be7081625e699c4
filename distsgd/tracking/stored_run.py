"""One run in an MLflow store: brought up to date, completed. Every call may fail and be retried.

No point is recorded twice. A journal line never changes, so a point that is sent again is identical to the last digit,
and a store that has it ignores it. On connecting, the store is asked what it has; after a failure, when it
is unknown what has arrived, a new connection is made.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModel,
    LoggedModelOutput,
    LoggedModelStatus,
    Metric,
    Param,
    Run,
    RunTag,
)
from mlflow.tracking import MlflowClient

from distsgd.rundir.directory import CONFIG, CONFUSION_MATRIX, PER_CLASS
from distsgd.rundir.journal import Record
from distsgd.rundir.result import Result
from distsgd.system.scratch import locked_folder
from distsgd.tracking import nesting, note, table
from distsgd.tracking.description import RUN_KEY_TAG, DatasetDescription, RunDescription
from distsgd.tracking.points import Point, log_points
from distsgd.tracking.quiet import importing

if TYPE_CHECKING:
    from distsgd.tracking.system_metrics import SystemMetrics

MAX_PARAMETER_LENGTH = 6000
MAX_MODEL_PARAMETER_LENGTH = 500

NOT_IN_NAMES = "/:.%\"'"
"""Characters that MLflow refuses in a model's name."""

BEST = {"val/accuracy": "best/val_accuracy", "val/r2": "best/val_r2"}
"""The highest validation accuracy, or R², so far. It is not in the journal."""

CURVES = "curves.svg"
"""Artifact that the run's description shows."""

MODEL = "model"
"""Name of the folder that the model is saved in."""


class StoredRun:
    """A run in the store."""

    def __init__(self, client: MlflowClient, run: Run, notice: str | None, view: str) -> None:
        self._client, self._run = client, run
        self.view = view
        """The command, or the address, that shows the run."""
        self.notice = notice
        """Why the run is not a child of the run that it was started in; None if it is, or was started in none."""
        self.run_id: str = run.info.run_id
        self.experiment_id: str = run.info.experiment_id
        self._best: dict[str, float] = {}
        self._known: dict[str, set[int]] = {
            key: {metric.step for metric in client.get_metric_history(self.run_id, key)} for key in run.data.metrics
        }

    def describe(self, description: RunDescription) -> None:
        """Log parameters, tags and datasets of a new run; parameters changed on resuming become tags."""
        have = self._run.data.params
        wanted = {
            _recorded_name(key, have): value[:MAX_PARAMETER_LENGTH] for key, value in description.parameters.items()
        }
        if not have:
            self._client.log_batch(self.run_id, params=[Param(key, value) for key, value in wanted.items()])
        changed = {f"resumed.{key}": value for key, value in wanted.items() if have and have.get(key) != value}
        self._tag(description.tags | changed | {"distsgd.view": self.view})
        if description.note and note.TAG not in self._run.data.tags:
            self._tag(note.tags(description.note))
        if self._run.inputs is None or not self._run.inputs.dataset_inputs:
            self._client.log_inputs(self.run_id, datasets=[_dataset(dataset) for dataset in description.datasets])

    def send(self, records: Sequence[Record]) -> None:
        """Log the points of journal lines that the store does not have yet."""
        points = [
            Point(key, float(value), record["timestamp_ms"], record["step"])
            for record in records
            for key, value in (record | self._best_so_far(record)).items()
            if "/" in key and record["step"] not in self._known.get(key, ())
        ]
        points.sort(key=lambda point: table.rank(point.key))
        log_points(self._client, self.run_id, points)

    def system_metrics(self) -> SystemMetrics:
        """Begin to measure how busy this machine is; any exception means that this is impossible here."""
        from distsgd.tracking.system_metrics import SystemMetrics

        return SystemMetrics(self._client, self.run_id)

    def _best_so_far(self, record: Record) -> dict[str, float]:
        """Return the metrics BEST at a validation. Lines come in order, from the beginning of the journal."""
        for key, best in BEST.items():
            if key in record:
                self._best[best] = max(self._best.get(best, -math.inf), float(record[key]))
        return self._best if "val/loss" in record else {}

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
            self._log_figures(records)
            self._log_tables(path)
        self._client.log_artifact(self.run_id, str(path / CONFIG))
        if result is not None:
            self._note(result, description.note, records)
        self._show_in_table(description.parameters)
        end = records[-1]["timestamp_ms"] if records else None
        self._client.set_terminated(self.run_id, status="FAILED" if result is None else result.status, end_time=end)
        if description.parent is not None:
            nesting.close(self._client, self.experiment_id, description.parent, end)

    def log_evaluation(self, metrics: Mapping[str, float], files: Sequence[Path], artifacts: str) -> None:
        """Log the metrics of an evaluation of the final weights, and its files as artifacts."""
        now = int(time.time() * 1000)
        step = max((step for steps in self._known.values() for step in steps), default=0)
        self._client.log_batch(self.run_id, metrics=[Metric(key, value, now, step) for key, value in metrics.items()])
        for file in files:
            self._client.log_artifact(self.run_id, str(file), artifacts)

    def _delete_duplicates(self, key: str) -> None:
        """Delete empty runs with the same key, left by requests that seemed to fail and were retried."""
        for run in runs_of_key(self._client, self.experiment_id, key):
            if run.info.run_id != self.run_id and not run.data.metrics:
                self._client.delete_run(run.info.run_id)

    def _note(self, result: Result, opening: str, records: Sequence[Record]) -> None:
        """Put the summary before the description that the run began with, unless somebody has written another one.

        MLflow's server, but not Databricks, hands out artifacts at an address beside that of its pages.
        """
        has_picture = result.status == "FINISHED" and any("val/loss" in record for record in records)
        on_databricks = self._client.tracking_uri.startswith("databricks")
        picture = f"get-artifact?path={CURVES}&run_uuid={self.run_id}" if has_picture and not on_databricks else None
        have = self._client.get_run(self.run_id).data.tags
        if opening and have.get(note.DIGEST_TAG) == note.digest(have.get(note.TAG, "")):
            self._tag(note.tags(note.ending(result, opening, picture)))

    def _show_in_table(self, parameters: Mapping[str, str]) -> None:
        """Give the experiment's table of runs columns for the metrics and for these parameters."""
        stored = self._client.get_experiment(self.experiment_id).tags.get(table.TAG)
        numbers = parameters.get("model.loss") == "squared"
        view = table.view(stored, parameters, table.NUMBER_METRICS if numbers else table.METRICS)
        if view != stored:
            self._client.set_experiment_tag(self.experiment_id, table.TAG, view)

    def _tag(self, tags: Mapping[str, str]) -> None:
        have = self._run.data.tags
        new = [RunTag(key, value) for key, value in tags.items() if have.get(key) != value]
        if new:
            self._client.log_batch(self.run_id, tags=new)

    def _log_figures(self, records: Sequence[Record]) -> None:
        with importing:
            from distsgd.rundir.figure import draw_curves, draw_learning_curve

        with locked_folder() as folder:
            draw_learning_curve(records, Path(folder, "learning_curve.svg"))
            if any("val/loss" in record for record in records):
                draw_curves(records, Path(folder, CURVES))
            for figure in sorted(Path(folder).glob("*.svg")):
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
        record = next((record for record in reversed(records) if "val/loss" in record), None)
        if rows is None or record is None:
            return
        for key in sorted((key for key in record if key.startswith("val/")), key=table.rank):
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
