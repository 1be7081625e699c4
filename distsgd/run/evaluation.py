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

from distsgd.core.losses import LOSSES
from distsgd.core.predictor import Predictor
from distsgd.data.model_rows import ModelRows, open_rows
from distsgd.errors import DataError
from distsgd.run.model import TrainedRun
from distsgd.run.observer import Observer
from distsgd.run.prediction import by_threads, part_rows
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
    the model, TrackingError if MLflow does not take them.
    """
    observer = observer or Observer()
    with stop_signals_raise():
        run = TrainedRun.open(run_dir)
        observer.stage(f"opening {data}")
        rows = open_rows(data, run.config.data, run.inputs, classes=run.predictor.classes)
        folder = _made(run_dir / FOLDER if out is None else out)
        y, predicted, probabilities, weights = _predictions(run.predictor, rows, observer)
        observer.stage("computing the metrics")
        from distsgd.run.metrics import of_classes

        measured = of_classes(y, predicted, probabilities, run.predictor.classes.tolist(), weights)
        content = {"data": data, **measured}
        observer.stage("drawing")
        _write(folder, content, run.predictor)
        for notice in rows.notices:
            observer.note(notice)
        if not log:
            return Evaluation(content, folder)
        observer.stage("sending the evaluation to MLflow")
        from distsgd.tracking.evaluation import log_evaluation

        logged = log_evaluation(run_dir, numbers(content), folder)
        return Evaluation(content, folder, logged.run_id, logged.view)


def numbers(content: dict[str, Any]) -> dict[str, float]:
    """Return those of the metrics that are one number each."""
    return {name: float(value) for name, value in content.items() if isinstance(value, float)}


def _predictions(
    predictor: Predictor, rows: ModelRows, observer: Observer
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32] | None, NDArray[np.float64] | None]:
    """Return classes (n,), predicted ones (n,), probabilities (n, C) and weights (n,) of all rows that count."""
    N, C = len(rows), len(predictor.classes)
    needed, there = N * (3 * 8 * C + 24), memory_limit()  # scikit-learn computes with float64
    if needed > there:
        raise DataError(
            f"the probabilities of {N:,} rows for {C:,} classes need {needed / 2**30:.1f} GiB of memory, and this "
            f"process may use {there / 2**30:.1f}; evaluate fewer rows, or compute with the file of distsgd predict"
        )
    examples = rows.parts(part_rows(rows.features, C))
    place = {label: number for number, label in enumerate(predictor.classes.tolist())}
    y, predicted, done = np.empty(N, np.int64), np.empty(N, np.int64), 0
    probabilities, weights = np.empty((N, C), np.float32), np.ones(N)
    with by_threads(predictor, ((part.X, part) for part in examples)) as outputs:
        for (labels, found), part in outputs:
            rows_here = slice(done, done + len(part))
            done += len(part)
            y[rows_here], probabilities[rows_here] = part.y, found
            predicted[rows_here] = [place[label] for label in labels.tolist()]
            if part.weights is not None:
                weights[rows_here] = part.weights
            observer.stage(f"predicting: {done:,} of {N:,} rows")
    given = probabilities if LOSSES[predictor.net.loss].has_probabilities else None
    if rows.weight is None:
        return y, predicted, given, None
    counts = weights > 0
    return y[counts], predicted[counts], None if given is None else given[counts], weights[counts]


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise DataError(
            f"the folder {str(folder)!r} cannot be created: {error.strerror}; give another one (--out)"
        ) from None
    return folder


def _write(folder: Path, content: dict[str, Any], predictor: Predictor) -> None:
    """Write `evaluation.json`, `per_class.csv` and the pictures; DataError if that fails."""
    from distsgd.rundir import evaluation_figures as figures

    try:
        write_atomically(folder / "evaluation.json", (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())
        write_atomically(folder / "per_class.csv", per_class_csv(content["per_class"]).encode())
        if content["confusion_matrix"] is not None:
            figures.draw_confusion_matrix(
                content["confusion_matrix"], content["classes"], folder / "confusion_matrix.svg"
            )
        if content["calibration"] is not None:
            figures.draw_reliability(content["calibration"], content["ece"], folder / "calibration.svg")
        shape = figures.image_shape(predictor.net.features)
        if shape is not None and is_image(predictor):
            parameters = predictor.net.split(predictor.flat)
            hidden = predictor.net.hidden
            titles = [f"unit {i}" for i in range(hidden)] if hidden else [str(c) for c in predictor.classes.tolist()]
            figures.draw_first_layer(parameters.W1 if hidden else parameters.W2, shape, titles, folder / "weights.svg")
    except OSError as error:
        raise DataError(f"the evaluation cannot be written to {str(folder)!r}: {error.strerror}") from None


def is_image(predictor: Predictor) -> bool:
    """Return whether features may be pixels: the numbers of one list column, or columns of one integer type."""
    columns = () if predictor.inputs is None else predictor.inputs.columns
    if [column.kind for column in columns] == ["list"]:
        return True
    kinds = {(column.kind, column.dtype) for column in columns}
    return len(kinds) == 1 and all(kind == "number" and np.dtype(dtype).kind in "iu" for kind, dtype in kinds)


def per_class_csv(per_class: dict[str, dict[str, Any]]) -> str:
    """Return the table of classes as CSV; what is undefined is left empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for number, (label, values) in enumerate(per_class.items()):
        if not number:
            writer.writerow(["class", *values])
        writer.writerow(
            [label, *("" if v is None else f"{v:.6f}" if isinstance(v, float) else v for v in values.values())]
        )
    return text.getvalue()
