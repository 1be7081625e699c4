"""The state of training between two steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np


class EpochLoss(NamedTuple):
    """The losses of the current epoch's steps so far, each with the weights before its update, without L2."""

    total: float = 0.0
    """Sum of the examples' losses, added step by step; steps whose update was not applied are left out."""
    weight: float = 0.0
    """Sum of the examples' weights."""

    def plus(self, loss: float, weight: float) -> EpochLoss:
        """Return the sums with one more step."""
        return EpochLoss(self.total + loss, self.weight + weight)

    @property
    def mean(self) -> float | None:
        """The mean loss; None before the first step, and if it is unknown."""
        return self.total / self.weight if self.weight > 0 else None


NO_LOSS = EpochLoss()
"""Before the first step."""

UNKNOWN = EpochLoss(math.nan, math.nan)
"""That of a checkpoint of version 0.1.0: NaN until the next epoch begins."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Everything needed to resume training from the end of a step."""

    step: int
    parameters: np.ndarray  # (P,) float32
    slots: Mapping[str, np.ndarray] = field(default_factory=dict)
    """The update rule's state vectors (P,) float32, by name."""
    skipped: int = 0
    """Steps whose update was not applied because it was not finite."""
    epoch_loss: EpochLoss = NO_LOSS
    """The losses of the epoch that the last step belongs to."""
    last_record: dict[str, Any] = field(default_factory=dict)
    """The newest journal record; validation adds to it if the step is the last of an epoch."""
