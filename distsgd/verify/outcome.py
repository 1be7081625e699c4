"""Whether model and result of a run are those of the states that were recorded or trained again."""

from __future__ import annotations

import os
from dataclasses import fields
from typing import Any

from distsgd.core import model_file
from distsgd.errors import DataError
from distsgd.run.assessment import assess
from distsgd.rundir import result_file
from distsgd.rundir.classifier import Classifier, weights_sha256
from distsgd.rundir.directory import BEST
from distsgd.rundir.result import Result
from distsgd.verify.comparison import Comparison
from distsgd.verify.recorded import Recorded
from distsgd.verify.replay import Trained
from distsgd.verify.report import Report
from distsgd.verify.tolerance import figures_agree

OF_CLASSES = ("majority_share", "balanced_accuracy", "macro_f1", "recall", "held_out_classes")
"""Figures of the classes of the held-out rows."""


def check_model(recorded: Recorded, report: Report) -> Classifier | None:
    """Return the model of a run; report it if it cannot be read, or is not the one in the result.

    None if it cannot be read, or if there is none, as of a run that has not finished.
    """
    if not recorded.is_finished and not os.path.lexists(recorded.directory.model):
        return None
    try:
        model = Classifier.load(recorded.directory.model)
    except DataError as error:
        report.differs("model", str(error))
        return None
    if recorded.result is None or not recorded.is_finished:
        return model
    found, said = weights_sha256(model.flat), recorded.result.weights_sha256
    if found != said:
        report.differs("model", f"model.npz has weights of the digest {found[:12]}…, and result.json {str(said)[:12]}…")
    return model


def compare_outcome(
    recorded: Recorded, model: Classifier | None, trained: Trained, comparison: Comparison, report: Report
) -> None:
    """Compare model and result of a run with what training again, all of it, came to."""
    for step in recorded.best:
        if step not in trained.bests and (trained.spec.plan.is_evaluated(step) or not trained.bests):
            report.differs("checkpoint", f"{BEST}/{step:08d} is a state that was never the best one")
    result = recorded.result
    if result is None or not recorded.is_finished:
        if model is not None:
            _compare_earlier_model(model, trained, comparison, report)
        return
    if result.steps != trained.last.step:
        report.differs("result", f"steps is {result.steps}, and the run has {trained.last.step}")
    if model is not None:
        if model.flat.shape == trained.kept.parameters.shape:
            comparison.vector("model.npz", "parameters", model.flat, trained.kept.parameters, kind="model")
        _compare_other_arrays(model, trained, report, is_old=_is_old(recorded, result))
    for key, (said, value) in _figures(recorded, result, trained).items():
        tolerated = report.tolerated is not None and figures_agree(key, said, value)
        if said != value and not tolerated:
            report.differs("result", f"{key} is {said!r}, and training comes to {value!r}")
    if report.tolerated is None and result.weights_sha256 != weights_sha256(trained.kept.parameters):
        report.differs("result", "weights_sha256 is not the digest of the weights that training comes to")


def _compare_earlier_model(model: Classifier, trained: Trained, comparison: Comparison, report: Report) -> None:
    """Compare the model that is there although the run has not finished: its end was an earlier one, or a kill.

    Its weights are those of a state that was validated.
    """
    if comparison.other is None and weights_sha256(model.flat) not in comparison.weights:
        report.differs("model", "the weights of model.npz are not those of any state in the run at which it could end")
    _compare_other_arrays(model, trained, report, is_old=model.inputs is None)


def check_as_written(recorded: Recorded, report: Report) -> None:
    """Report the files of a run's end that are not as they were written, unless it is said what is wrong with them."""
    if recorded.result is None:
        return
    try:
        for name, change in result_file.changes(recorded.directory, may_lack_seal=not recorded.proof.lines):
            kind = {recorded.directory.result.name: "result", recorded.directory.model.name: "model"}.get(name, "files")
            if kind == "files" or kind not in report.differences:
                report.differs(kind, f"{name} {change}")
    except OSError as error:
        report.differs("files", f"{error.filename} cannot be read: {error.strerror}")


def compare_with_checkpoint(recorded: Recorded, model: Classifier, report: Report) -> None:
    """Compare the model of a finished run with the checkpoints that may have its weights, if they are there."""
    if recorded.result is None or not recorded.is_finished:
        report.notes.append("model.npz is there although the run has not finished; it is compared without --segments")
        return
    stops_early = recorded.config.train.early_stopping is not None
    last = () if stops_early else (recorded.checkpoints.get(recorded.result.steps),)
    found = {snapshot.step: snapshot for snapshot in (*recorded.best.values(), *last) if snapshot is not None}
    if found and all(weights_sha256(model.flat) != weights_sha256(kept.parameters) for kept in found.values()):
        steps = " or ".join(map(str, found))
        report.differs("model", f"the weights of model.npz are not those of the checkpoint of step {steps}")


def _is_old(recorded: Recorded, result: Result) -> bool:
    """Return whether a result is one of version 0.1.0; whatever it says, a run with a proof is of a later one."""
    return not result.features and not recorded.proof.lines


def _figures(recorded: Recorded, result: Result, trained: Trained) -> dict[str, tuple[Any, Any]]:
    """Return the figures that the result has, and those that it should have, by their names in `result.json`."""
    metrics = trained.metrics.get(trained.kept.step, {})
    logged = {key for record in recorded.records.values() for key in record}  # a later version may measure more
    names = {field.name: field.name.replace("_", "/", 1) for field in fields(result) if field.name.startswith("val_")}
    found = {key: (getattr(result, name), metrics.get(key)) for name, key in names.items() if key in logged}
    if _is_old(recorded, result):  # without an assessment, and with another loss of the name below
        return found
    plan, until = trained.spec.plan, trained.kept.step
    validated = [
        {"epoch": plan.epoch(step)} | trained.metrics[step] for step in sorted(trained.metrics) if step <= until
    ]
    assessed = assess(validated, trained.confusion, trained.spec.data.classes.tolist())
    of_classes = OF_CLASSES if "val/macro_f1" in logged else ()
    expected = {name: getattr(assessed, name) for name in (*of_classes, "best_epoch", "best_val_loss")}
    expected |= {"epochs": plan.epoch(trained.last.step), "arithmetic": trained.spec.net.arithmetic}
    found |= {name: (getattr(result, name), value) for name, value in expected.items()}
    return found | {"train/loss": (result.train_loss, trained.last.epoch_loss.mean)}


def _compare_other_arrays(model: Classifier, trained: Trained, report: Report, *, is_old: bool) -> None:
    """Compare classes, normalisation and columns of the model with those of the rows; version 0.1.0 has no columns."""
    data = trained.spec.data
    expected = Classifier(
        net=model.net,
        flat=model.flat,
        classes=data.classes,
        normalization=data.normalization,
        inputs=None if model.inputs is None and is_old else data.inputs,
    )
    if model_file.encode(model.predictor) != model_file.encode(expected.predictor):
        report.differs("model", "the classes, normalisation or columns of model.npz are not those of the rows")
