"""What predictions are measured by, for each kind of target: sums over rows, which add up to metrics.

The sums of several blocks of rows are added with `fsum`, which makes their order irrelevant.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from distsgd.core.losses import Target

Sums = tuple[float, ...]
Array = NDArray[Any]
Weights = NDArray[np.float64]  # (n,)


class Scores(Protocol):
    """The scores of one kind of target."""

    def sums(self, y: Array, predicted: Array, weights: Weights, origin: Array) -> Sums:
        """Return weighted sums over the rows of a block.

        Targets and what is predicted are as `losses.Target` and `Loss.predicted` say. `origin` is the target of one of
        the held-out rows, the same one for all blocks: sums of squares keep their digits relative to it.
        """
        ...

    def metrics(self, totals: Sums, weight: float) -> dict[str, float]:
        """Return the metrics by their names in the journal, from the totals of `sums` and the weight of all rows."""
        ...


class ClassScores:
    """Accuracy."""

    def sums(self, y: Array, predicted: Array, weights: Weights, origin: Array) -> Sums:  # noqa: ARG002 - others need it
        """See Scores.sums: the weight of the rows whose class is predicted."""
        return (float(weights[predicted == y].sum()),)

    def metrics(self, totals: Sums, weight: float) -> dict[str, float]:
        """See Scores.metrics."""
        return {"val/accuracy": totals[0] / weight}


class LabelScores:
    """Accuracy: of rows all of whose labels are predicted, as scikit-learn's `accuracy_score`, and of single labels."""

    def sums(self, y: Array, predicted: Array, weights: Weights, origin: Array) -> Sums:  # noqa: ARG002
        """See Scores.sums: the weight of the rows with all labels right, and of the share of right labels."""
        right = predicted == y
        return (
            float(weights[right.all(axis=1)].sum()),
            float((weights * right.mean(axis=1, dtype=np.float64)).sum()),
        )

    def metrics(self, totals: Sums, weight: float) -> dict[str, float]:
        """See Scores.metrics."""
        return {"val/accuracy": totals[0] / weight, "val/label_accuracy": totals[1] / weight}


class NumberScores:
    """Mean squared and absolute error, and R², as scikit-learn's: means over the C numbers."""

    def sums(self, y: Array, predicted: Array, weights: Weights, origin: Array) -> Sums:
        """See Scores.sums: for each number the squared and absolute errors, the numbers, and their squares."""
        error, y = predicted - y.astype(np.float64), y - origin.astype(np.float64)
        parts = (error * error, np.abs(error), y, y * y)
        return tuple(value for part in parts for value in (weights @ part).tolist())

    def metrics(self, totals: Sums, weight: float) -> dict[str, float]:
        """See Scores.metrics; R² is left out if one of the numbers is the same in all rows."""
        squares, errors, numbers, number_squares = np.array(totals).reshape(4, -1) / weight
        found = {"val/mse": float(squares.mean()), "val/mae": float(errors.mean())}
        variances = number_squares - numbers * numbers
        if (variances > 0).all():
            found["val/r2"] = float((1 - squares / variances).mean())
        return found


SCORES: dict[Target, Scores] = {"class": ClassScores(), "labels": LabelScores(), "numbers": NumberScores()}
"""The scores of each kind of target."""


def totals(parts: Sequence[Sums]) -> Sums:
    """Return the sums over several blocks."""
    return tuple(math.fsum(column) for column in zip(*parts, strict=True))
