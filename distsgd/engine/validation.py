"""Loss and accuracy over held-out rows, the same for any number of workers."""

from __future__ import annotations

import math

import numpy as np

from distsgd.core.backend import Device, array_module
from distsgd.core.backprop import loss_and_correct
from distsgd.core.net import Net
from distsgd.core.predictor import BLOCK
from distsgd.core.workspace import Workspace
from distsgd.data import BatchTransform, Rows
from distsgd.data.gatherer import Gatherer

__all__ = ["BLOCK", "Validation", "block_count", "metrics"]


class Validation:
    """Evaluates the held-out rows in blocks of a fixed size, so that results do not depend on the number of workers."""

    def __init__(self, net: Net, rows: Rows, transform: BatchTransform, device: Device) -> None:
        self._net, self._xp, self._size = net, array_module(device), len(rows)
        self._batch = Gatherer(rows, transform, BLOCK, device)
        self._workspace = Workspace(net, BLOCK, self._xp)

    def evaluate(self, flat: np.ndarray, blocks: range) -> list[tuple[float, int]]:
        """Return each block's loss sum and number of correct predictions with the parameters flat (P,)."""
        parameters, results = self._net.split(self._xp.asarray(flat)), []
        with np.errstate(all="ignore"):
            for block in blocks:
                index = np.arange(block * BLOCK, min((block + 1) * BLOCK, self._size))
                results.append(loss_and_correct(parameters, *self._batch.gather(index), workspace=self._workspace))
        return results


def block_count(rows: int) -> int:
    """Return the number of blocks for `rows` held-out rows."""
    return math.ceil(rows / BLOCK)


def metrics(blocks: list[tuple[float, int]], rows: int) -> dict[str, float]:
    """Return mean loss, without L2, and accuracy over all blocks; `fsum` makes their order irrelevant."""
    return {
        "val/loss": math.fsum(loss for loss, _ in blocks) / rows,
        "val/accuracy": sum(correct for _, correct in blocks) / rows,
    }
