"""Loss, scores and confusion over held-out rows, the same for any number of workers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from distsgd.core.backend import Device, array_module, to_host
from distsgd.core.backprop import losses_and_predicted
from distsgd.core.losses import LOSSES
from distsgd.core.net import Net, Parameters
from distsgd.core.predictor import BLOCK
from distsgd.core.workspace import Workspace
from distsgd.data import BatchTransform, Rows
from distsgd.data.gatherer import Examples, Gatherer
from distsgd.engine.confusion import Confusion, Counts, pair_counts
from distsgd.engine.scores import SCORES, Sums, totals

__all__ = ["BLOCK", "BlockResult", "Evaluation", "Validation", "block_count", "evaluation"]


class BlockResult(NamedTuple):
    """What a block of held-out rows gives."""

    weight: float
    """Sum of the rows' weights: their number, unless they have some."""
    loss: float
    """Weighted sum of the rows' losses."""
    scores: Sums
    """See Scores.sums."""
    pairs: Counts | None = None
    """See confusion.pair_counts; None unless it was asked for, and for targets that are no classes."""


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
        self._net, self._xp, self._size = net, array_module(device), len(rows)
        count = min(BLOCK, len(rows))
        self._batch = Gatherer(rows, transform, count, device)
        self._workspace = Workspace(dataclasses.replace(net, label_smoothing=0.0), count, self._xp)
        self._scores, self._origin = SCORES[self._workspace.loss.target], _first_target(rows)

    def evaluate(self, flat: np.ndarray, blocks: range, *, confusion: bool = False) -> list[BlockResult]:
        """Return each block's results with the parameters flat (P,), with its pairs of classes if `confusion`."""
        parameters, results = self._net.split(self._xp.asarray(flat)), []
        with np.errstate(all="ignore"):
            for block in blocks:
                index = np.arange(block * BLOCK, min((block + 1) * BLOCK, self._size))
                results.append(self._of(parameters, self._batch.gather(index), confusion=confusion))
        return results

    def _of(self, parameters: Parameters, examples: Examples, *, confusion: bool) -> BlockResult:
        xp, (X, y, w) = self._xp, examples
        losses, predicted = losses_and_predicted(parameters, X, y, workspace=self._workspace)
        if w is not None:
            xp.multiply(losses, w, out=losses)
        loss = float(losses.sum(dtype=xp.float64))
        y, predicted = to_host(y), to_host(predicted)
        weights = np.ones(len(y)) if w is None else to_host(w).astype(np.float64)
        scores = self._scores.sums(y, predicted, weights, self._origin)
        counted = confusion and self._workspace.loss.target == "class"
        pairs = pair_counts(y, predicted, self._net.classes) if counted else None
        return BlockResult(examples.weight, loss, scores, pairs)


def _first_target(rows: Rows) -> np.ndarray:
    """Return the target of the first row: (), or (C,)."""
    kind, shape = rows.target
    y = np.empty((1, *shape), kind)
    rows.gather(np.zeros(1, np.int64), np.empty((1, rows.features), rows.dtype), y)
    return np.asarray(y[0])


def block_count(rows: int) -> int:
    """Return the number of blocks for `rows` held-out rows."""
    return math.ceil(rows / BLOCK)


def evaluation(blocks: Sequence[BlockResult], net: Net) -> Evaluation:
    """Return the results over all blocks of the held-out rows; `fsum` makes their order irrelevant.

    The mean loss is without L2. The confusion is there if the blocks have their pairs.
    """
    weight = math.fsum(block.weight for block in blocks)
    scores = SCORES[LOSSES[net.loss].target]
    metrics = {
        "val/loss": math.fsum(block.loss for block in blocks) / weight,
        **scores.metrics(totals([block.scores for block in blocks]), weight),
    }
    pairs = [block.pairs for block in blocks if block.pairs is not None]
    return Evaluation(metrics, Confusion.of(pairs, net.classes) if pairs else None)
