"""The files written at the end of a run: the result and the model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from distsgd.engine.confusion import Confusion
from distsgd.engine.snapshot import Snapshot
from distsgd.engine.spec import RunSpec
from distsgd.errors import TrainingError
from distsgd.run.assessment import assess, confusion_table, per_class_table
from distsgd.run.log import RunLog
from distsgd.run.trainer import Trainer
from distsgd.rundir import result_file
from distsgd.rundir.classifier import MODEL_FILE, Classifier, weights_sha256
from distsgd.rundir.directory import CONFUSION_MATRIX, PER_CLASS, RunDirectory
from distsgd.rundir.result import Result, Status
from distsgd.system.files import write_atomically
from distsgd.tracking import description

FILES = (MODEL_FILE, PER_CLASS, CONFUSION_MATRIX, description.FILE)
"""Files that do not change any more when a run has finished; its result has their digests."""


def measured_result(
    status: Status,
    *,
    spec: RunSpec,
    trainer: Trainer,
    log: RunLog,
    newest: Snapshot,
    kept: Snapshot,
    ended: str | None,
    confusion: Confusion | None,
    run_dir: Path,
    wall_s: float,
) -> Result:
    """Return the result of a run whose last state is `newest`, without the MLflow run ID.

    The weights are those of the state `kept`; with early stopping, `ended` says why training ended.
    """
    timings: dict[str, float] = {}
    with contextlib.suppress(TrainingError):  # the parameter server may be what died
        timings = trainer.timings()
    classes, class_weight = spec.data.classes.tolist(), spec.config.train.class_weight
    assessed = assess(log.records(kept.step), confusion, classes, class_weight=class_weight)
    validated = log.validated
    if kept.step != newest.step:
        validated = log.records(kept.step)[-1]
    return Result(
        status=status,
        weights_sha256=weights_sha256(kept.parameters),
        steps=newest.step,
        epochs=spec.plan.epoch(newest.step),
        train_loss=newest.epoch_loss.mean,
        val_loss=validated.get("val/loss"),
        val_accuracy=validated.get("val/accuracy"),
        val_label_accuracy=validated.get("val/label_accuracy"),
        val_macro_f1=validated.get("val/macro_f1"),
        val_roc_auc=validated.get("val/roc_auc"),
        val_mse=validated.get("val/mse"),
        val_mae=validated.get("val/mae"),
        val_r2=validated.get("val/r2"),
        wall_s=wall_s,
        samples_per_s=timings.get("samples_per_s"),
        step_ms_p50=timings.get("step_ms_p50"),
        step_ms_p95=timings.get("step_ms_p95"),
        mlflow_run_id=None,
        numerics=trainer.numerics,
        arithmetic=spec.net.arithmetic,
        ended=ended if status == "FINISHED" else None,
        features=spec.data.features,
        run_dir=run_dir.absolute(),
        warnings=log.warnings,
        **vars(assessed),
    )


def write_model(directory: RunDirectory, spec: RunSpec, newest: Snapshot) -> None:
    """Write `model.npz`; TrainingError if that fails."""
    data = spec.data
    model = Classifier(
        net=spec.net,
        flat=newest.parameters,
        classes=data.classes,
        normalization=data.normalization,
        inputs=data.inputs,
    )
    with writing(directory.model):
        model.save(directory.model)


def write_tables(directory: RunDirectory, spec: RunSpec, confusion: Confusion | None) -> None:
    """Write the per-class table and the confusion matrix, if rows were held out; TrainingError if that fails."""
    if confusion is None:
        return
    tables = {directory.per_class: per_class_table, directory.confusion_matrix: confusion_table}
    for path, table in tables.items():
        text = table(confusion, spec.data.classes.tolist())
        if text is not None:
            with writing(path):
                write_atomically(path, text.encode(), private=True)


def write_result(directory: RunDirectory, result: Result) -> None:
    """Write `result.json`; TrainingError if that fails."""
    with writing(directory.result):
        result_file.write(directory, result.to_json(), FILES if result.status == "FINISHED" else ())


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the OSError of a full or faulty disk into a TrainingError."""
    try:
        yield
    except OSError as error:
        raise TrainingError(
            f"{str(path)!r} could not be written: {error.strerror}; make room and use --resume"
        ) from None
