"""What predictions are worth, by scikit-learn's metrics, and the calibration of their probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics

BINS = 15
"""Bins of equal width that the confidence is sorted into (Guo et al., "On calibration of modern neural networks")."""

MATRIX_CLASSES = 1000
"""Maximum number of classes for which the confusion matrix is among the metrics."""

Array = NDArray[Any]
Weights = NDArray[np.float64] | None


def of_classes(
    y: Array, predicted: Array, probabilities: Array | None, classes: Sequence[Any], weights: Weights = None
) -> dict[str, Any]:
    """Return the metrics of predicted classes (n,) for true ones y (n,), both numbers in [0, C).

    `probabilities` is (n, C), or None if the model has none; log loss, ROC-AUC and calibration are None then. The
    ROC-AUC of more than two classes is the mean of each one's against all others; it is None if a class has no rows.
    Rows count as their `weights` (n,) say.
    """
    numbers, C = np.arange(len(classes)), len(classes)
    given: dict[str, Any] = {"sample_weight": weights}
    ratios = metrics.precision_recall_fscore_support(y, predicted, labels=numbers, zero_division=np.nan, **given)
    predicted_rows = np.bincount(predicted, minlength=C)
    rows = np.bincount(y, minlength=C)
    confusion = metrics.confusion_matrix(y, predicted, labels=numbers, **given) if C <= MATRIX_CLASSES else None
    met = np.flatnonzero((rows > 0) | (predicted_rows > 0))
    found: dict[str, Any] = {
        "rows": len(y),
        "accuracy": metrics.accuracy_score(y, predicted, **given),
        "balanced_accuracy": _mean(ratios[1][rows > 0]),
        "macro_f1": metrics.f1_score(y, predicted, labels=met, average="macro", zero_division=0, **given),
        "majority_share": float(np.bincount(y, weights, C).max() / (len(y) if weights is None else weights.sum())),
        "log_loss": None,
        "roc_auc": None,
        "ece": None,
    }
    calibration = None
    if probabilities is not None:
        p = probabilities.astype(np.float64)
        p /= p.sum(axis=1, keepdims=True)
        found["log_loss"] = metrics.log_loss(y, p, labels=numbers, **given)
        found["roc_auc"] = _roc_auc(y, probabilities, rows, given)
        calibration = reliability(y == predicted, p.max(axis=1), weights)
        found["ece"] = expected_calibration_error(calibration)
    per_class = {
        str(label): {
            "rows": int(rows[number]),
            "predicted": int(predicted_rows[number]),
            "precision": number_or_none(ratios[0][number]),
            "recall": number_or_none(ratios[1][number]),
            "f1": number_or_none(ratios[2][number]),
        }
        for number, label in enumerate(classes)
    }
    named = {"classes": list(classes), "confusion_matrix": None if confusion is None else confusion.tolist()}
    return found | {"per_class": per_class, **named, "calibration": calibration}


def reliability(correct: Array, confidence: Array, weights: Weights = None) -> list[dict[str, float | int | None]]:
    """Return, for each of BINS bins, its bounds, its rows, their mean confidence and their accuracy; None if empty.

    The confidence (n,) is the largest probability of a row, `correct` (n,) whether its class is the true one.
    """
    each = np.ones(len(confidence)) if weights is None else weights
    number = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    counts = np.bincount(number, minlength=BINS).tolist()
    weight, sums, right = (np.bincount(number, w, BINS) for w in (each, each * confidence, each * correct))
    return [
        {
            "from": i / BINS,
            "to": (i + 1) / BINS,
            "rows": counts[i],
            "weight": float(weight[i]),
            "confidence": float(sums[i] / weight[i]) if weight[i] else None,
            "accuracy": float(right[i] / weight[i]) if weight[i] else None,
        }
        for i in range(BINS)
    ]


def expected_calibration_error(bins: Sequence[dict[str, Any]]) -> float:
    """Return Σ_b (w_b / w) |accuracy_b − confidence_b| over the bins of `reliability`."""
    total = math.fsum(bin_["weight"] for bin_ in bins)
    gaps = [bin_["weight"] * abs(bin_["accuracy"] - bin_["confidence"]) for bin_ in bins if bin_["weight"]]
    return math.fsum(gaps) / total


def _roc_auc(y: Array, p: Array, rows: Array, given: dict[str, Any]) -> float | None:
    """Return what `val/roc_auc` of a run is, too: probabilities are ranked as they are, not divided by their sum."""
    if not rows.all():
        return None
    classes = [1] if p.shape[1] == 2 else range(p.shape[1])
    return math.fsum(metrics.roc_auc_score(y == k, p[:, k], **given) for k in classes) / len(classes)


def _mean(values: Array) -> float:
    return float(np.mean(values))


def number_or_none(value: float) -> float | None:
    """Return a number, None for NaN."""
    return None if math.isnan(value) else float(value)
