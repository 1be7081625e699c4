"""What predictions are measured by, for each kind of target: sums over rows, which add up to metrics.

The sums of several blocks of rows are added with `fsum`, which makes their order irrelevant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from distsgd.core.losses import Target
from distsgd.data.statistics import rounded_sum

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


def exact_sum(values: Array) -> float:
    """Return the exact sum of values (n,), rounded once."""
    return math.fsum(values.tolist())


def products(weights: Weights, part: Array) -> list[float]:
    """Return the weighted sums (C,) of values (n, C) by BLAS."""
    found: list[float] = (weights @ part).tolist()
    return found


def exact_products(weights: Weights, part: Array) -> list[float]:
    """Return the weighted sums (C,) of values (n, C), each exact but for the rounding of its products."""
    return [exact_sum(weights * column) for column in part.T]


class ClassScores:
    """Accuracy."""

    def __init__(self, summed: Callable[[Array], float] = rounded_sum) -> None:
        self._summed = summed

    def sums(self, y: Array, predicted: Array, weights: Weights, origin: Array) -> Sums:  # noqa: ARG002 - others need it
        """See Scores.sums: the weight of the rows whose class is predicted."""
        return (self._summed(weights[predicted == y]),)

    def metrics(self, totals: Sums, weight: float) -> dict[str, float]:
        """See Scores.metrics."""
        return {"val/accuracy": totals[0] / weight}


class LabelScores:
    """Accuracy: of rows all of whose labels are predicted, as scikit-learn's `accuracy_score`, and of single labels.

    Macro-F1 is the mean over the labels, without those that no row has and none is predicted to have.
    """

    def __init__(self, summed: Callable[[Array], float] = rounded_sum) -> None:
        self._summed = summed

    def sums(self, y: Array, predicted: Array, weights: Weights, origin: Array) -> Sums:  # noqa: ARG002
        """See Scores.sums: the weight of the rows with all labels right, and of the share of right labels.

        Then, for each label, twice the weight of the rows that have it and are predicted to, and the sum of the weights
        of those that have it and of those that are predicted to.
        """
        right = predicted == y
        true, found = y == 1, predicted == 1
        hits = 2 * _by_label(weights, true & found)
        occurrences = _by_label(weights, true) + _by_label(weights, found)
        return (
            self._summed(weights[right.all(axis=1)]),
            self._summed(weights * right.mean(axis=1, dtype=np.float64)),
            *hits.tolist(),
            *occurrences.tolist(),
        )

    def metrics(self, totals: Sums, weight: float) -> dict[str, float]:
        """See Scores.metrics."""
        metrics = {"val/accuracy": totals[0] / weight, "val/label_accuracy": totals[1] / weight}
        hits, occurrences = np.array(totals[2:]).reshape(2, -1)
        met = occurrences > 0
        if met.any():
            metrics["val/macro_f1"] = exact_sum(hits[met] / occurrences[met]) / int(met.sum())
        return metrics


def _by_label(weights: Weights, chosen: Array) -> Weights:
    """Return for each label (L,) the weight of the rows that `chosen` (n, L) says, in one order of additions."""
    found: Weights = np.where(chosen, weights[:, np.newaxis], 0.0).sum(axis=0)
    return found


class NumberScores:
    """Mean squared and absolute error, and R², as scikit-learn's: means over the C numbers."""

    def __init__(
        self,
        products: Callable[[Weights, Array], list[float]] = products,
        summed: Callable[[Array], float] = rounded_sum,
    ) -> None:
        self._products, self._summed = products, summed

    def sums(self, y: Array, predicted: Array, weights: Weights, origin: Array) -> Sums:
        """See Scores.sums: for each number the squared and absolute errors, the numbers, and their squares."""
        error, y = predicted - y.astype(np.float64), y - origin.astype(np.float64)
        parts = (error * error, np.abs(error), y, y * y)
        return tuple(value for part in parts for value in self._products(weights, part))

    def metrics(self, totals: Sums, weight: float) -> dict[str, float]:
        """See Scores.metrics; R² is left out if one of the numbers is the same in all rows."""
        squares, errors, numbers, number_squares = np.array(totals).reshape(4, -1) / weight
        found = {"val/mse": self._summed(squares) / len(squares), "val/mae": self._summed(errors) / len(errors)}
        variances = number_squares - numbers * numbers
        if (variances > 0).all():
            found["val/r2"] = self._summed(1 - squares / variances) / len(squares)
        return found


SCORES: dict[Target, Scores] = {"class": ClassScores(), "labels": LabelScores(), "numbers": NumberScores()}
"""The scores of each kind of target."""

PORTABLE_SCORES: dict[Target, Scores] = {
    "class": ClassScores(exact_sum),
    "labels": LabelScores(exact_sum),
    "numbers": NumberScores(exact_products, exact_sum),
}
"""The same with sums that are rounded once, on every machine alike."""


def totals(parts: Sequence[Sums]) -> Sums:
    """Return the sums over several blocks."""
    return tuple(math.fsum(column) for column in zip(*parts, strict=True))
