"""What a finished run is worth: figures beside which its accuracy can be read, and sentences on what stands out."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Literal

from distsgd.engine.confusion import Confusion
from distsgd.errors import counted

SHOWN_CLASSES = 10
"""Maximum number of classes whose recall is in the result: all of them, or those of lowest recall."""

MATRIX_CLASSES = 1000
"""Maximum number of classes for which the confusion matrix is written."""

CLEAR_GAIN = 2.0
"""Standard errors by which the accuracy has to exceed the most frequent class's share (McNemar's test) to be better."""

LONG_BEFORE = 2 / 3
"""The best validation counts as long before the end if it came within this fraction of the epochs."""

CLEAR_RISE = 1.05
"""Factor by which the validation loss has to have risen since then."""


@dataclass(frozen=True, kw_only=True)
class Assessment:
    """Figures and remarks; None where nothing was measured. They become the fields of the same names of a Result."""

    majority_share: float | None = None
    balanced_accuracy: float | None = None
    macro_f1: float | None = None
    recall: dict[str, float] | None = None
    held_out_classes: int | None = None
    best_epoch: float | None = None
    best_val_loss: float | None = None
    remarks: list[str] = field(default_factory=list)


def assess(
    records: Sequence[Mapping[str, Any]],
    confusion: Confusion | None,
    classes: Sequence[Any],
    *,
    class_weight: Literal["balanced"] | Mapping[str, float] | None = None,
) -> Assessment:
    """Return the assessment of a run from its journal and, if it finished, the confusion of its final weights.

    `class_weight` is `train.class_weight`, which a remark may suggest.
    """
    validated = [record for record in records if "val/loss" in record]
    best = min(validated, key=lambda record: float(record["val/loss"]), default=None)
    about_best = {} if best is None else {"best_epoch": best["epoch"], "best_val_loss": best["val/loss"]}
    overfitting = None if best is None else overfitting_remark(best, validated[-1])
    if confusion is None:
        useless = useless_remark(validated[-1]) if validated else None
        return Assessment(**about_best, remarks=[remark for remark in (useless, overfitting) if remark])
    unpredicted = unpredicted_remark(confusion, classes, is_balanced=class_weight == "balanced")
    remarks = [guessing_remark(confusion, classes), unpredicted, overfitting]
    return Assessment(
        majority_share=confusion.majority_share,
        balanced_accuracy=confusion.balanced_accuracy,
        macro_f1=confusion.macro_f1,
        recall=shown_recall(confusion, classes),
        held_out_classes=sum(rows > 0 for rows in confusion.support.tolist()),
        **about_best,
        remarks=[remark for remark in remarks if remark],
    )


def shown_recall(confusion: Confusion, classes: Sequence[Any]) -> dict[str, float]:
    """Return the recall of up to ten classes with held-out rows, by name; beyond ten, of the worst, worst first."""
    known = [
        (str(label), recall)
        for label, recall in zip(classes, confusion.recall.tolist(), strict=True)
        if not math.isnan(recall)
    ]
    if len(known) > SHOWN_CLASSES:
        known = sorted(known, key=itemgetter(1))[:SHOWN_CLASSES]
    return dict(known)


def guessing_remark(confusion: Confusion, classes: Sequence[Any]) -> str | None:
    """Return a sentence if the model is not clearly better than always predicting the most frequent class."""
    gained, lost, variance = confusion.gain()
    if gained - lost > CLEAR_GAIN * math.sqrt(variance):
        return None
    how = "not clearly better" if gained > lost else "no better"
    counted = ", by their weights," if confusion.is_weighted else ""
    return (
        f"{how} than guessing: {confusion.majority_share:.4f} of the held-out rows{counted} are of class "
        f"{classes[confusion.majority]!r}, and {confusion.accuracy:.4f} are "
        "predicted correctly; look at the features and data.normalize, try another optim.lr or more epochs"
    )


def unpredicted_remark(confusion: Confusion, classes: Sequence[Any], *, is_balanced: bool) -> str | None:
    """Return a sentence if no held-out row is predicted as one of the classes that held-out rows have."""
    rows, predicted, _ = confusion.rows()
    counts = zip(classes, rows.tolist(), predicted.tolist(), strict=True)
    missed = [(label, count) for label, count, times in counts if count and not times]
    if not missed:
        return None
    named = ", ".join(f"{label!r} ({counted(count, 'row')})" for label, count in missed[:SHOWN_CLASSES])
    more = f" and {len(missed) - SHOWN_CLASSES:,} more" if len(missed) > SHOWN_CLASSES else ""
    which = "class" if len(missed) == 1 else "classes"
    remedy = "try more epochs or another optim.lr, or add rows of it"
    if not is_balanced:
        remedy = 'rare classes count more with train.class_weight = "balanced"'
    return f"no held-out row is predicted as {which} {named}{more}, although there are such rows; {remedy}"


def useless_remark(last: Mapping[str, Any]) -> str | None:
    """Return a sentence if predicted numbers are no better than the mean of the held-out rows."""
    if last.get("val/r2", 1.0) > 0:
        return None
    return (
        f"no better than guessing: R² is {last['val/r2']:.4f}, and predicting the mean for every row gives 0; look at "
        "the features and data.normalize, try another optim.lr or more epochs; labels are not normalised: divide large "
        "ones, so that they are near 1"
    )


def overfitting_remark(best: Mapping[str, Any], last: Mapping[str, Any]) -> str | None:
    """Return a sentence if the validation loss was lowest long before the end, and has risen clearly since."""
    if best["epoch"] > LONG_BEFORE * last["epoch"] or last["val/loss"] < CLEAR_RISE * best["val/loss"]:
        return None
    then, now = best.get("train/epoch_loss"), last.get("train/epoch_loss")
    course = f"the validation loss was lowest after epoch {best['epoch']:g}, {best['val/loss']:.4f}, and is "
    course += f"{last['val/loss']:.4f} now"
    if then is not None and now is not None and now >= then:
        return f"{course}, and the training loss has not fallen since, either: training is unstable; lower optim.lr"
    epochs = max(1, round(best["epoch"]))
    return f"overfitting: {course}; train for fewer epochs (train.epochs={epochs}), or raise optim.l2"


def per_class_table(confusion: Confusion, classes: Sequence[Any]) -> str:
    """Return a CSV table with a line for each class; what is undefined is left empty.

    `rows`, `predicted` and `correct` are numbers of rows, ratios count rows by their weights.
    """
    ratios = zip(confusion.recall, confusion.precision, confusion.f1, strict=True)
    counts = zip(*confusion.rows(), strict=True)
    lines = [
        [label, *count, *("" if math.isnan(value) else f"{value:.6f}" for value in ratio)]
        for label, count, ratio in zip(classes, counts, ratios, strict=True)
    ]
    return _csv([["class", "rows", "predicted", "correct", "recall", "precision", "f1"], *lines])


def confusion_table(confusion: Confusion, classes: Sequence[Any]) -> str | None:
    """Return the confusion matrix of weights as CSV, a line for each true class; None if there are too many classes."""
    if confusion.classes > MATRIX_CLASSES:
        return None
    weights = ([f"{weight:.15g}" for weight in row] for row in confusion.matrix().tolist())
    lines = [[label, *row] for label, row in zip(classes, weights, strict=True)]
    return _csv([["true \\ predicted", *classes], *lines])


def _csv(lines: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()
