"""Loss, scores, ROC-AUC and confusion over held-out rows, the same for any number of workers."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from distsgd.core.backend import Device, array_module, to_host
from distsgd.core.backprop import measured
from distsgd.core.losses import LOSSES
from distsgd.core.net import Net, Parameters
from distsgd.core.predictor import BLOCK
from distsgd.core.workspace import Workspace
from distsgd.data import BatchTransform, Rows
from distsgd.data.gatherer import Examples, Gatherer
from distsgd.data.statistics import rounded_sum
from distsgd.engine.confusion import Confusion, Pairs, pairs_of
from distsgd.engine.roc_auc import Ranked, Ranking, roc_auc
from distsgd.engine.scores import PORTABLE_SCORES, SCORES, Sums, exact_sum, totals

__all__ = [
    "ALL_EXTRAS",
    "BLOCK",
    "NO_EXTRAS",
    "BlockResult",
    "Evaluation",
    "Extras",
    "Validation",
    "block_count",
    "evaluation",
]


class Extras(NamedTuple):
    """What a validation measures beside loss and scores only if it is asked for."""

    confusion: bool = False
    roc_auc: bool = False


NO_EXTRAS = Extras()

ALL_EXTRAS = Extras(confusion=True, roc_auc=True)


class BlockResult(NamedTuple):
    """What a block of held-out rows gives."""

    number: int
    """The block's, from 0."""
    weight: float
    """Sum of the rows' weights: their number, unless they have some."""
    loss: float
    """Weighted sum of the rows' losses."""
    scores: Sums
    """See Scores.sums."""
    pairs: Pairs | None = None
    """None unless it was asked for, and for targets that are no classes."""
    ranked: Ranked | None = None
    """None unless it was asked for, and where there is no ROC-AUC."""


@dataclass(frozen=True)
class Evaluation:
    """What a validation measured; nothing if there are no held-out rows."""

    metrics: dict[str, float] = field(default_factory=dict)
    """By their names in the journal."""
    confusion: Confusion | None = None
    """None unless it was asked for, and for targets that are no classes."""


class Validation:
    """Evaluates the held-out rows in blocks of a fixed size, so that results do not depend on the number of workers.

    The loss is that of the labels as they are: they are smoothed for training alone.
    """

    def __init__(self, net: Net, rows: Rows, transform: BatchTransform, device: Device) -> None:
        self._net, self._rows, self._xp, self._size = net, rows, array_module(device), len(rows)
        count = min(BLOCK, len(rows))
        self._batch = Gatherer(rows, transform, count, device)
        self._workspace = Workspace(dataclasses.replace(net, label_smoothing=0.0), count, self._xp)
        self._scores = SCORES[self._workspace.loss.target]
        self._origin = np.asarray(rows.targets(slice(0, 1)))[0]

    @functools.cached_property
    def _ranking(self) -> Ranking:
        return Ranking(self._net, self._rows)

    def evaluate(self, flat: np.ndarray, blocks: range, extras: Extras = NO_EXTRAS) -> list[BlockResult]:
        """Return each block's results with the parameters flat (P,)."""
        parameters, results = self._net.split(self._xp.asarray(flat)), []
        with np.errstate(all="ignore"):
            for block in blocks:
                index = np.arange(block * BLOCK, min((block + 1) * BLOCK, self._size))
                results.append(self._of(block, parameters, self._batch.gather(index), extras))
        return results

    def _of(self, block: int, parameters: Parameters, examples: Examples, extras: Extras) -> BlockResult:
        xp, (X, y, w) = self._xp, examples
        ranked = extras.roc_auc and self._ranking.is_defined
        found = measured(parameters, X, y, workspace=self._workspace, probabilities=ranked)
        losses, predicted = found.losses, to_host(found.predicted)
        if w is not None:
            xp.multiply(losses, w, out=losses)
        loss = float(losses.sum(dtype=xp.float64))
        y, weights = to_host(y), None if w is None else to_host(w).astype(np.float64)
        scores = self._scores.sums(y, predicted, np.ones(len(y)) if weights is None else weights, self._origin)
        counted = extras.confusion and self._workspace.loss.target == "class"
        return BlockResult(
            block,
            examples.weight,
            loss,
            scores,
            pairs_of(y, predicted, self._net.classes, weights) if counted else None,
            self._ranking.kept(block * BLOCK, y, to_host(found.probabilities), weights) if ranked else None,
        )


def block_count(rows: int) -> int:
    """Return the number of blocks for `rows` held-out rows."""
    return math.ceil(rows / BLOCK)


def evaluation(blocks: Sequence[BlockResult], net: Net) -> Evaluation:
    """Return the results over all blocks of the held-out rows, whose order is irrelevant.

    The mean loss is without L2. The confusion and `val/macro_f1` are there if the blocks have their pairs, and
    `val/roc_auc` if they have their ranks.
    """
    blocks = sorted(blocks, key=lambda block: block.number)
    weight = math.fsum(block.weight for block in blocks)
    portable = net.arithmetic == "portable"
    scores = (PORTABLE_SCORES if portable else SCORES)[LOSSES[net.loss].target]
    metrics = {
        "val/loss": math.fsum(block.loss for block in blocks) / weight,
        **scores.metrics(totals([block.scores for block in blocks]), weight),
    }
    pairs = [block.pairs for block in blocks if block.pairs is not None]
    confusion = Confusion.of(pairs, net.classes) if pairs else None
    if confusion is not None:
        metrics["val/macro_f1"] = confusion.macro_f1
    ranked = [block.ranked for block in blocks if block.ranked is not None]
    area = roc_auc(ranked, exact_sum if portable else rounded_sum) if ranked else None
    if area is not None:
        metrics["val/roc_auc"] = area
    return Evaluation(metrics, confusion)
