"""Which classes of the held-out rows are predicted as which, counted block by block, and what follows from that."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]


def pair_counts(y: Counts, predicted: Counts, classes: int) -> Counts:
    """Return (2, K): the distinct pairs of true and predicted class as y·C + predicted, and the rows of each.

    y and predicted are (n,) class indices in [0, C). There are at most n pairs, however many classes there are.
    """
    return np.stack(np.unique(y * classes + predicted, return_counts=True))


@dataclass(frozen=True)
class Confusion:
    """Numbers of held-out rows by true and predicted class, sparse: only pairs that occur."""

    classes: int
    pairs: Counts
    """(K,): true class · C + predicted class, ascending."""
    rows: Counts
    """(K,): how many rows each pair has."""

    @classmethod
    def of(cls, parts: Iterable[Counts], classes: int) -> Confusion:
        """Return the sum of what `pair_counts` gave for each block, in any order."""
        found = np.concatenate([np.empty((2, 0), np.int64), *parts], axis=1)
        pairs, number = np.unique(found[0], return_inverse=True)
        rows = np.zeros(len(pairs), np.int64)
        np.add.at(rows, number, found[1])
        return cls(classes, pairs, rows)

    @property
    def support(self) -> Counts:
        """Rows of each true class (C,)."""
        return self._by_class(self.pairs // self.classes, self.rows)

    @property
    def predicted(self) -> Counts:
        """Rows predicted as each class (C,)."""
        return self._by_class(self.pairs % self.classes, self.rows)

    @property
    def correct(self) -> Counts:
        """Rows of each class that are predicted as that class (C,)."""
        hit = self.pairs // self.classes == self.pairs % self.classes
        return self._by_class(self.pairs[hit] % self.classes, self.rows[hit])

    def _by_class(self, numbers: Counts, rows: Counts) -> Counts:
        total = np.zeros(self.classes, np.int64)
        np.add.at(total, numbers, rows)
        return total

    def matrix(self) -> Counts:
        """Return the whole matrix (C, C), a row for each true class."""
        found = np.zeros(self.classes**2, np.int64)
        found[self.pairs] = self.rows
        return found.reshape(self.classes, self.classes)

    @property
    def recall(self) -> NDArray[np.float64]:
        """Fraction of each class's rows that are predicted as it (C,); NaN for a class without rows."""
        return _ratio(self.correct, self.support)

    @property
    def precision(self) -> NDArray[np.float64]:
        """Fraction of the rows predicted as each class that are of it (C,); NaN for a class never predicted."""
        return _ratio(self.correct, self.predicted)

    @property
    def f1(self) -> NDArray[np.float64]:
        """Harmonic mean of precision and recall (C,); NaN for a class that neither occurs nor is predicted."""
        return _ratio(2 * self.correct, self.support + self.predicted)

    @property
    def majority(self) -> int:
        """The most frequent class of the held-out rows; the first of several."""
        return int(self.support.argmax())

    @property
    def majority_share(self) -> float:
        """The accuracy of always predicting the most frequent class."""
        return int(self.support.max()) / int(self.rows.sum())

    @property
    def balanced_accuracy(self) -> float:
        """Mean recall of the classes that occur, as scikit-learn's `balanced_accuracy_score`."""
        return float(np.nanmean(self.recall))

    @property
    def macro_f1(self) -> float:
        """Mean F1 of the classes that occur or are predicted, as scikit-learn's `f1_score(average="macro")`."""
        return float(np.nanmean(self.f1))

    def gain(self) -> tuple[int, int]:
        """Return rows that the model has right and the most frequent class wrong, and the reverse."""
        best, correct = self.majority, self.correct
        return int(correct.sum() - correct[best]), int(self.support[best] - correct[best])


def _ratio(part: Counts, whole: Counts) -> NDArray[np.float64]:
    found = np.full(len(part), np.nan)
    np.divide(part, whole, out=found, where=whole > 0)
    return found
