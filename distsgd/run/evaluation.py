"""`distsgd evaluate`: what a run's model is worth on other rows, as metrics, tables and pictures."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distsgd.core.predictor import Predictor
from distsgd.data.model_rows import ModelRows, open_rows
from distsgd.errors import DataError
from distsgd.run.model import TrainedRun
from distsgd.run.observer import Observer
from distsgd.run.prediction import by_threads, part_rows
from distsgd.rundir.directory import PER_CLASS, check_not_own_file
from distsgd.system.files import write_atomically
from distsgd.system.memory import memory_limit
from distsgd.system.signals import stop_signals_raise

FOLDER = "evaluation"
"""Folder in the run directory that the files of an evaluation go to, unless another one is given."""


@dataclass(frozen=True)
class Evaluation:
    """The metrics, and the folder with the tables and pictures."""

    metrics: dict[str, Any]
    folder: Path
    mlflow_run: str | None = None
    """ID of the MLflow run that they were logged to."""
    view: str | None = None
    """The command, or the address, that shows that run."""


def evaluate(
    run_dir: Path, data: str, *, out: Path | None = None, log: bool = False, observer: Observer | None = None
) -> Evaluation:
    """Return the metrics of the model of a run on the labelled rows that `data` names, and write tables and pictures.

    With `log` they become metrics `evaluate/...` and artifacts of the run in MLflow. DataError for rows that do not fit
    the model, ConfigError if `out` is a run directory, whose tables would be replaced, TrackingError if MLflow does not
    take them.
    """
    observer = observer or Observer()
    with stop_signals_raise():
        run = TrainedRun.open(run_dir)
        observer.stage(f"opening {data}")
        target = run.predictor.loss.target
        rows = open_rows(data, run.config.data, run.inputs, classes=run.predictor.classes, target=target)
        folder = _made(run_dir / FOLDER if out is None else out)
        found = _predictions(run.predictor, rows, observer)
        observer.stage("computing the metrics")
        content = {"data": data, **_measured(run.predictor, *found)}
        observer.stage("drawing")
        files = _write(folder, content, run.predictor)
        for notice in rows.notices:
            observer.note(notice)
        if not log:
            return Evaluation(content, folder)
        observer.stage("sending the evaluation to MLflow")
        from distsgd.tracking.evaluation import log_evaluation

        logged = log_evaluation(run_dir, numbers(content), files)
        return Evaluation(content, folder, logged.run_id, logged.view)


def numbers(content: dict[str, Any]) -> dict[str, float]:
    """Return those of the metrics that are one number each."""
    return {name: float(value) for name, value in content.items() if isinstance(value, float)}


Found = tuple[NDArray[Any], NDArray[Any], NDArray[np.float32], NDArray[np.float64] | None]
"""Targets, what is predicted, outputs (n, C) as of `Predictor.predict_both`, and weights (n,), of rows that count."""


def _measured(
    predictor: Predictor,
    y: NDArray[Any],
    predicted: NDArray[Any],
    outputs: NDArray[np.float32],
    weights: NDArray[np.float64] | None,
) -> dict[str, Any]:
    """Return the metrics of what the model's loss predicts."""
    from distsgd.run.array_metrics import of_labels, of_numbers
    from distsgd.run.metrics import of_classes

    loss, names = predictor.loss, predictor.classes.tolist()
    if loss.target == "labels":
        return of_labels(y, predicted, outputs, names, weights)
    if loss.target == "numbers":
        return of_numbers(y, predicted, names, weights)
    return of_classes(y, predicted, outputs if loss.has_probabilities else None, names, weights)


def _predictions(predictor: Predictor, rows: ModelRows, observer: Observer) -> Found:
    """Return targets, predictions, outputs and weights of all rows that count; classes as their numbers in [0, C)."""
    N, C = len(rows), len(predictor.classes)
    needed, there = N * (3 * 8 * C + 24), memory_limit()  # scikit-learn computes with float64
    if needed > there:
        raise DataError(
            f"the outputs of {N:,} rows, {C:,} each, need {needed / 2**30:.1f} GiB of memory, and this process may use "
            f"{there / 2**30:.1f}; evaluate fewer rows, or compute with the file of distsgd predict"
        )
    place = {label: number for number, label in enumerate(predictor.classes.tolist())}
    ys, predictions, outputs, weights, done = [], [], np.empty((N, C), np.float32), np.ones(N), 0
    pairs = ((part.X, part) for part in rows.parts(part_rows(rows.features, C)))
    with by_threads(predictor, pairs) as computed:
        for (predicted, found), part in computed:
            rows_here = slice(done, done + len(part))
            done += len(part)
            outputs[rows_here] = found
            ys.append(part.y)
            if predictor.loss.target == "class":
                predictions.append(np.array([place[label] for label in predicted.tolist()], np.int64))
            else:
                predictions.append(predicted.reshape(len(part), C))
            if part.weights is not None:
                weights[rows_here] = part.weights
            observer.stage(f"predicting: {done:,} of {N:,} rows")
    if not done:
        raise DataError(
            f"{rows.source.location}: every weight in column {rows.weight!r} is 0; expected rows with a weight above 0"
        )
    y, predicted = np.concatenate([y for y in ys if y is not None]), np.concatenate(predictions)
    return y, predicted, outputs[:done], None if rows.weight is None else weights[:done]


def _made(folder: Path) -> Path:
    check_not_own_file(folder / PER_CLASS)
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise DataError(
            f"the folder {str(folder)!r} cannot be created: {error.strerror}; give another one (--out)"
        ) from None
    return folder


def _write(folder: Path, content: dict[str, Any], predictor: Predictor) -> list[Path]:
    """Write `evaluation.json`, a table and the pictures; return these files. DataError if that fails."""
    from distsgd.rundir import evaluation_figures as figures

    written: list[Path] = []

    def file(name: str) -> Path:
        written.append(folder / name)
        return written[-1]

    try:
        text = json.dumps(content, indent=2, allow_nan=False) + "\n"
        write_atomically(file("evaluation.json"), text.encode(), private=True)
        name = table_name(content)
        table = table_csv(name.removeprefix("per_"), content[name])
        write_atomically(file(f"{name}.csv"), table.encode(), private=True)
        if content["confusion_matrix"] is not None:
            figures.draw_confusion_matrix(content["confusion_matrix"], content["classes"], file("confusion_matrix.svg"))
        if content["calibration"] is not None:
            figures.draw_reliability(content["calibration"], content["ece"], file("calibration.svg"))
        shape = figures.image_shape(predictor.net.features)
        if shape is not None and is_image(predictor):
            parameters = predictor.net.split(predictor.flat)
            hidden = predictor.net.hidden
            titles = [f"unit {i}" for i in range(hidden)] if hidden else [str(c) for c in predictor.classes.tolist()]
            figures.draw_first_layer(parameters.W1 if hidden else parameters.W2, shape, titles, file("weights.svg"))
    except OSError as error:
        raise DataError(f"the evaluation cannot be written to {str(folder)!r}: {error.strerror}") from None
    return written


def is_image(predictor: Predictor) -> bool:
    """Return whether features may be pixels: the numbers of one list column, or columns of one integer type."""
    columns = () if predictor.inputs is None else predictor.inputs.columns
    if [column.kind for column in columns] == ["list"]:
        return True
    kinds = {(column.kind, column.dtype) for column in columns}
    return len(kinds) == 1 and all(kind == "number" and np.dtype(dtype).kind in "iu" for kind, dtype in kinds)


def table_name(content: dict[str, Any]) -> str:
    """Return the key of the table of classes, labels or numbers."""
    return "per_class" if "per_class" in content else "per_output"


def table_csv(title: str, table: dict[str, dict[str, Any]]) -> str:
    """Return a table as CSV with a line for each name; what is undefined is left empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for number, (name, values) in enumerate(table.items()):
        if not number:
            writer.writerow([title, *values])
        cells = ("" if v is None else f"{v:.6f}" if isinstance(v, float) else v for v in values.values())
        writer.writerow([name, *cells])
    return text.getvalue()
