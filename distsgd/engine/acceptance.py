"""Decides whether a step's update is applied: one rule for the serial loop and the parameter server."""

from __future__ import annotations

import math

from distsgd.config import TrainConfig
from distsgd.errors import NonFiniteError


def is_applied(config: TrainConfig, step: int, loss: float, *, finite: bool) -> bool:
    """Return whether the update of step `step`, counted from 1, is applied; if not, the step counts as skipped.

    It is applied if the mini-batch's mean loss, without L2, and all updated parameters (`finite`) are finite. The L2
    term of the loss is ignored: its sum of squares may overflow where parameters and gradient do not. Raise
    NonFiniteError if the update must not be applied and `train.on_nonfinite` is `stop`.
    """
    if math.isfinite(loss) and finite:
        return True
    if config.on_nonfinite == "stop":
        raise NonFiniteError(f"step {step}: the mini-batch's loss ({loss}) or gradient is not finite")
    return False
