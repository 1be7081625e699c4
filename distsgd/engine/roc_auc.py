"""ROC-AUC over held-out rows, from the probabilities of all blocks in the order of the rows.

It is scikit-learn's `roc_auc_score`: of two classes that of the second one's probability; of more, the mean over the
classes, each against all others; of labels of 0 and 1, the mean over those that have both values. For that the
probabilities of all rows have to be in one place. So that they fit into memory however many rows there are, of more
than VALUES of them those of every k-th row count, with the smallest k that suffices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distsgd.core.losses import LOSSES
from distsgd.core.net import Net
from distsgd.data import Rows
from distsgd.data.statistics import rounded_sum

VALUES = 2**24
"""Maximum number of probabilities that are kept, 64 MiB of float32: a million rows of sixteen classes."""

Targets = NDArray[np.int64] | NDArray[np.float32]


class Ranked(NamedTuple):
    """What is kept of the rows of a block that count."""

    y: Targets
    """(n,) class indices, or (n, C) labels of 0 and 1."""
    probabilities: NDArray[np.float32]
    """(n, C), or (n, 1) those of the second of two classes."""
    weights: NDArray[np.float64] | None
    """(n,); None if each row counts once."""


class Ranking:
    """Which held-out rows count, and whether there is a ROC-AUC of them at all."""

    def __init__(self, net: Net, rows: Rows) -> None:
        """The rows are labelled, and are the held-out ones of a run."""
        loss, C = LOSSES[net.loss], net.classes
        self.target = loss.target
        self._width = 1 if loss.target == "class" and C == 2 else C
        self.every = max(1, math.ceil(len(rows) * self._width / VALUES))
        """Of so many consecutive rows the first one counts."""
        self.undefined: list[int] = []
        """Classes without rows, or labels that have only one value, among those rows."""
        self.is_defined = loss.has_probabilities
        if self.is_defined:
            y = np.asarray(rows.targets(slice(None, None, self.every)))
            self.undefined = np.flatnonzero(_is_constant(y, C)).tolist()
            self.is_defined = not self.undefined if loss.target == "class" else len(self.undefined) < C

    def kept(
        self, start: int, y: Targets, probabilities: NDArray[np.float32], weights: NDArray[np.float64] | None
    ) -> Ranked:
        """Return what is kept of a block of consecutive rows, the first of which is row `start`."""
        chosen = slice(-start % self.every, None, self.every)
        found = probabilities[chosen, 1:] if self._width < probabilities.shape[1] else probabilities[chosen]
        return Ranked(y[chosen].copy(), found.copy(), None if weights is None else weights[chosen].copy())


def _is_constant(y: Targets, outputs: int) -> NDArray[np.bool_]:
    """Return for which outputs (C,) there is nothing to tell apart."""
    if y.ndim == 1:
        lacking: NDArray[np.bool_] = np.bincount(y, minlength=outputs) == 0
        return lacking
    same: NDArray[np.bool_] = (y == y[:1]).all(axis=0)
    return same


def roc_auc(parts: Sequence[Ranked], summed: Callable[[Any], float] = rounded_sum) -> float | None:
    """Return the ROC-AUC over blocks, which are in the order of the rows; None if it is not defined."""
    y, p = (np.concatenate([part[i] for part in parts]) for i in range(2))
    weights = [part.weights for part in parts if part.weights is not None]
    w = np.concatenate(weights) if weights else None
    if y.ndim == 2:
        areas = [area(y[:, k] == 1, p[:, k], w, summed) for k in range(p.shape[1])]
        known = [value for value in areas if value is not None]
        return math.fsum(known) / len(known) if known else None
    areas = [area(y == (k if p.shape[1] > 1 else 1), p[:, k], w, summed) for k in range(p.shape[1])]
    known = [value for value in areas if value is not None]
    return math.fsum(known) / len(known) if len(known) == len(areas) else None


def area(
    positive: NDArray[np.bool_],
    scores: NDArray[np.float32],
    weights: NDArray[np.float64] | None = None,
    summed: Callable[[Any], float] = rounded_sum,
) -> float | None:
    """Return the share of pairs of a positive and another row (n,) in which the positive one's score is higher.

    Equal scores count half, and a pair as the product of its rows' weights. None if there are no such pairs.
    """
    if weights is None:
        own, others = np.sort(scores[positive]), np.sort(scores[~positive])
        if not len(own) or not len(others):
            return None
        twice = int(np.searchsorted(others, own).sum()) + int(np.searchsorted(others, own, "right").sum())
        return twice / (2 * len(own) * len(others))
    own, of_own, others, of_others = scores[positive], weights[positive], scores[~positive], weights[~positive]
    if not len(own) or not len(others):
        return None
    order = np.argsort(others, kind="stable")
    others, below = others[order], np.concatenate([[0.0], np.cumsum(of_others[order])])
    twice = below[np.searchsorted(others, own)] + below[np.searchsorted(others, own, "right")]
    return float(summed(of_own * twice) / (2 * summed(of_own) * below[-1]))
