"""What predictions of several labels, or of numbers, are worth, by scikit-learn's metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn import metrics

from distsgd.run.metrics import Array, Weights, expected_calibration_error, number_or_none, reliability


def of_labels(
    y: Array, predicted: Array, probabilities: Array, names: Sequence[str], weights: Weights = None
) -> dict[str, Any]:
    """Return the metrics of predicted labels (n, C) for true ones y (n, C), both 0 or 1, and probabilities (n, C).

    `accuracy` is that of rows with all labels right, `label_accuracy` that of single labels; the log loss is summed
    over the labels, as `val/loss` is; ROC-AUC is the mean of the labels that have both values.
    """
    given: dict[str, Any] = {"sample_weight": weights}
    y, C = y.astype(np.int64), y.shape[1]
    ratios = metrics.precision_recall_fscore_support(y, predicted, zero_division=np.nan, average=None, **given)
    p = probabilities.astype(np.float64)
    areas = [
        float(metrics.roc_auc_score(y[:, k], p[:, k], **given)) if 0 < y[:, k].sum() < len(y) else None
        for k in range(C)
    ]
    known = [area for area in areas if area is not None]
    losses = [metrics.log_loss(y[:, k], np.stack([1 - p[:, k], p[:, k]], 1), labels=[0, 1], **given) for k in range(C)]
    each = None if weights is None else np.repeat(weights, C)
    calibration = reliability((y == predicted).ravel(), np.maximum(p, 1 - p).ravel(), each)
    per_class = {
        name: {
            "rows": int(y[:, k].sum()),
            "predicted": int(predicted[:, k].sum()),
            "precision": number_or_none(ratios[0][k]),
            "recall": number_or_none(ratios[1][k]),
            "f1": number_or_none(ratios[2][k]),
            "roc_auc": areas[k],
        }
        for k, name in enumerate(names)
    }
    right = (y == predicted).all(axis=1)
    return {
        "rows": len(y),
        "accuracy": float(np.average(right, weights=weights)),
        "label_accuracy": float(np.average((y == predicted).mean(axis=1), weights=weights)),
        "macro_f1": float(np.nanmean(ratios[2])) if not np.isnan(ratios[2]).all() else None,
        "log_loss": float(sum(losses)),
        "roc_auc": float(np.mean(known)) if known else None,
        "ece": expected_calibration_error(calibration),
        "per_class": per_class,
        "classes": list(names),
        "confusion_matrix": None,
        "calibration": calibration,
    }


def of_numbers(y: Array, predicted: Array, names: Sequence[str], weights: Weights = None) -> dict[str, Any]:
    """Return mean squared and absolute error and R² of predicted numbers (n, C) for y (n, C): means, and each one's.

    R² is None where a number is the same in all rows.
    """
    given: dict[str, Any] = {"sample_weight": weights, "multioutput": "raw_values"}
    y, predicted = y.astype(np.float64), predicted.astype(np.float64)  # squares in float32 overflow
    squared, absolute = (
        metrics.mean_squared_error(y, predicted, **given),
        metrics.mean_absolute_error(y, predicted, **given),
    )
    varies = (y != y[0]).any(axis=0)
    r2 = np.where(varies, metrics.r2_score(y, predicted, **given) if len(y) > 1 else np.nan, np.nan)
    per_output = {
        name: {"mse": float(squared[k]), "mae": float(absolute[k]), "r2": number_or_none(r2[k])}
        for k, name in enumerate(names)
    }
    return {
        "rows": len(y),
        "mse": float(squared.mean()),
        "mae": float(absolute.mean()),
        "r2": number_or_none(r2.mean()),
        "per_output": per_output,
        "confusion_matrix": None,
        "calibration": None,
    }
