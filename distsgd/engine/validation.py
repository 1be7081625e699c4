"""Loss, accuracy and confusion over held-out rows, the same for any number of workers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from distsgd.core.backend import Device, array_module, to_host
from distsgd.core.backprop import loss_and_predicted
from distsgd.core.net import Net
from distsgd.core.predictor import BLOCK
from distsgd.core.workspace import Workspace
from distsgd.data import BatchTransform, Rows
from distsgd.data.gatherer import Gatherer
from distsgd.engine.confusion import Confusion, Counts, pair_counts

__all__ = ["BLOCK", "BlockResult", "Evaluation", "Validation", "block_count", "evaluation", "metrics"]


class BlockResult(NamedTuple):
    """What a block of held-out rows gives."""

    loss: float
    """Sum of the rows' losses."""
    correct: int
    """Number of correct predictions."""
    pairs: Counts | None = None
    """See confusion.pair_counts; None unless it was asked for."""


@dataclass(frozen=True)
class Evaluation:
    """What a validation measured; nothing if there are no held-out rows."""

    metrics: dict[str, float] = field(default_factory=dict)
    """By their names in the journal."""
    confusion: Confusion | None = None
    """None unless it was asked for."""


class Validation:
    """Evaluates the held-out rows in blocks of a fixed size, so that results do not depend on the number of workers."""

    def __init__(self, net: Net, rows: Rows, transform: BatchTransform, device: Device) -> None:
        self._net, self._xp, self._size = net, array_module(device), len(rows)
        count = min(BLOCK, len(rows))
        self._batch = Gatherer(rows, transform, count, device)
        self._workspace = Workspace(net, count, self._xp)

    def evaluate(self, flat: np.ndarray, blocks: range, *, confusion: bool = False) -> list[BlockResult]:
        """Return each block's results with the parameters flat (P,), with its pairs of classes if `confusion`."""
        parameters, results = self._net.split(self._xp.asarray(flat)), []
        with np.errstate(all="ignore"):
            for block in blocks:
                index = np.arange(block * BLOCK, min((block + 1) * BLOCK, self._size))
                X, y = self._batch.gather(index)
                loss, predicted = loss_and_predicted(parameters, X, y, workspace=self._workspace)
                pairs = pair_counts(to_host(y), to_host(predicted), self._net.classes) if confusion else None
                results.append(BlockResult(loss, int(self._xp.count_nonzero(predicted == y)), pairs))
        return results


def block_count(rows: int) -> int:
    """Return the number of blocks for `rows` held-out rows."""
    return math.ceil(rows / BLOCK)


def metrics(blocks: Sequence[tuple[float, int] | BlockResult], rows: int) -> dict[str, float]:
    """Return mean loss, without L2, and accuracy over all blocks; `fsum` makes their order irrelevant."""
    return {
        "val/loss": math.fsum(block[0] for block in blocks) / rows,
        "val/accuracy": sum(block[1] for block in blocks) / rows,
    }


def evaluation(blocks: Sequence[BlockResult], rows: int, classes: int) -> Evaluation:
    """Return the results over all blocks, with the confusion if the blocks have their pairs."""
    parts = [block.pairs for block in blocks if block.pairs is not None]
    return Evaluation(metrics(blocks, rows), Confusion.of(parts, classes) if parts else None)
