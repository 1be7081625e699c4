"""Which classes of the held-out rows are predicted as which, counted block by block, and what follows from that."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Sums = NDArray[np.float64]


DENSE = 4
"""Cells of a whole matrix for each row of a block up to which such a matrix is counted."""


class Pairs(NamedTuple):
    """The distinct pairs of true and predicted class, K of them, with sums over the rows of each."""

    numbers: Counts
    """(K,): true class · C + predicted class, ascending."""
    rows: Counts
    """(K,): how many rows each pair has."""
    weights: Sums
    """(K,): the sum of their weights; the number of rows if they have none."""
    squares: Sums
    """(K,): the sum of the squares of their weights."""

    @classmethod
    def added(cls, parts: Sequence[Pairs]) -> Pairs:
        """Return the sums over all parts, added in this order."""
        numbers, place = np.unique(np.concatenate([part.numbers for part in parts]), return_inverse=True)
        rows, weights, squares = np.zeros(len(numbers), np.int64), np.zeros(len(numbers)), np.zeros(len(numbers))
        for total, of_part in ((rows, 1), (weights, 2), (squares, 3)):
            np.add.at(total, place, np.concatenate([part[of_part] for part in parts]))
        return cls(numbers, rows, weights, squares)


def pairs_of(y: Counts, predicted: Counts, classes: int, weights: Sums | None = None) -> Pairs:
    """Return the pairs of a block, for y and predicted (n,) class indices in [0, C) and the rows' weights (n,).

    There are at most n pairs, however many classes there are.
    """
    every = y * classes + predicted
    if classes * classes <= DENSE * len(y):  # counting is faster than sorting
        counts = np.bincount(every, minlength=classes * classes)
        numbers = np.flatnonzero(counts)
        rows = counts[numbers]
        place = np.searchsorted(numbers, every) if weights is not None else every
    else:
        numbers, place, rows = np.unique(every, return_inverse=True, return_counts=True)
    if weights is None:
        return Pairs(numbers, rows, rows.astype(np.float64), rows.astype(np.float64))
    return Pairs(numbers, rows, _sums(place, weights, len(numbers)), _sums(place, weights * weights, len(numbers)))


@dataclass(frozen=True)
class Confusion:
    """The held-out rows by true and predicted class, sparse: only pairs that occur. Ratios count rows by weight."""

    classes: int
    pairs: Pairs

    @classmethod
    def of(cls, parts: Sequence[Pairs], classes: int) -> Confusion:
        """Return the sum of what `pairs_of` gave for each block, added in this order."""
        return cls(classes, Pairs.added(parts))

    @property
    def is_weighted(self) -> bool:
        """Whether some rows have another weight than 1."""
        return bool((self.pairs.weights != self.pairs.rows).any())

    @property
    def _true(self) -> Counts:
        return self.pairs.numbers // self.classes

    @property
    def _predicted(self) -> Counts:
        return self.pairs.numbers % self.classes

    def rows(self) -> tuple[Counts, Counts, Counts]:
        """Return numbers of rows (C,): of each true class, predicted as each class, and of each class predicted so."""
        rows, hit = self.pairs.rows, self._true == self._predicted
        found = ((self._true, rows), (self._predicted, rows), (self._true, rows * hit))
        return tuple(self._by_class(numbers, values).astype(np.int64) for numbers, values in found)  # type: ignore[return-value]

    @property
    def support(self) -> Sums:
        """Weight of each true class (C,)."""
        return self._by_class(self._true, self.pairs.weights)

    @property
    def predicted(self) -> Sums:
        """Weight of the rows predicted as each class (C,)."""
        return self._by_class(self._predicted, self.pairs.weights)

    @property
    def correct(self) -> Sums:
        """Weight of the rows of each class that are predicted as that class (C,)."""
        return self._by_class(self._true, self.pairs.weights * (self._true == self._predicted))

    def _by_class(self, numbers: Counts, values: Counts | Sums) -> Sums:
        return _sums(numbers, values, self.classes)

    def matrix(self) -> Sums:
        """Return the whole matrix of weights (C, C), a row for each true class."""
        found = np.zeros(self.classes**2)
        found[self.pairs.numbers] = self.pairs.weights
        return found.reshape(self.classes, self.classes)

    @property
    def recall(self) -> Sums:
        """Fraction of each class's rows that are predicted as it (C,); NaN for a class without rows."""
        return _ratio(self.correct, self.support)

    @property
    def precision(self) -> Sums:
        """Fraction of the rows predicted as each class that are of it (C,); NaN for a class never predicted."""
        return _ratio(self.correct, self.predicted)

    @property
    def f1(self) -> Sums:
        """Harmonic mean of precision and recall (C,); NaN for a class that neither occurs nor is predicted."""
        return _ratio(2 * self.correct, self.support + self.predicted)

    @property
    def majority(self) -> int:
        """The most frequent class of the held-out rows; the first of several."""
        return int(self.support.argmax())

    @property
    def majority_share(self) -> float:
        """The accuracy of always predicting the most frequent class."""
        return float(self.support.max() / self.pairs.weights.sum())

    @property
    def accuracy(self) -> float:
        """The fraction of rows whose class is predicted."""
        return float(self.correct.sum() / self.pairs.weights.sum())

    @property
    def balanced_accuracy(self) -> float:
        """Mean recall of the classes that occur, as scikit-learn's `balanced_accuracy_score`."""
        return float(np.nanmean(self.recall))

    @property
    def macro_f1(self) -> float:
        """Mean F1 of the classes that occur or are predicted, as scikit-learn's `f1_score(average="macro")`."""
        known = self.f1[~np.isnan(self.f1)].tolist()
        return math.fsum(known) / len(known)

    def gain(self) -> tuple[float, float, float]:
        """Return weights: of rows that the model has right and the most frequent class wrong, and the reverse.

        The third number is the sum of squared weights of all these rows: the variance of the difference if both were
        equally good (McNemar's test; without weights it is the number of rows).
        """
        best, true, predicted = self.majority, self._true, self._predicted
        gained, lost = (true == predicted) & (true != best), (true == best) & (predicted != best)
        weights, squares = self.pairs.weights, self.pairs.squares
        return float(weights[gained].sum()), float(weights[lost].sum()), float(squares[gained | lost].sum())


def _ratio(part: Sums, whole: Sums) -> Sums:
    found = np.full(len(part), np.nan)
    np.divide(part, whole, out=found, where=whole > 0)
    return found


def _sums(places: Counts, values: Counts | Sums, size: int) -> Sums:
    """Return the sums of the values (n,) of each place in [0, size)."""
    return np.bincount(places, values, size).astype(np.float64)
