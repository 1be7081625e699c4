"""What computes the numbers of a run that each `train.arithmetic` has a way of its own for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Protocol

import numpy as np

from distsgd.config import Config, OptimConfig
from distsgd.core import optim, schedules, update_rules
from distsgd.core.net import Array, Net
from distsgd.core.portable import initial, rules
from distsgd.core.portable import optim as portable_optim
from distsgd.core.portable import schedules as portable_schedules
from distsgd.core.portable.step import MOST
from distsgd.core.update_rule import UpdateRule
from distsgd.errors import ConfigError


class LearningRate(Protocol):
    """See schedules.learning_rate."""

    def __call__(self, config: OptimConfig, step: int, *, steps_per_epoch: int, total_steps: int) -> float: ...  # noqa: D102


@dataclass(frozen=True)
class Arithmetic:
    """The functions whose results depend on it."""

    initial: Callable[[Net, int, float | None], np.ndarray]
    """See Net.initial."""
    learning_rate: LearningRate
    update_rule: Callable[[OptimConfig], UpdateRule]
    l2_loss: Callable[[Net, Array, float, ModuleType], float]
    """See optim.l2_loss."""


ARITHMETICS = {
    "fast": Arithmetic(Net.initial, schedules.learning_rate, update_rules.update_rule, optim.l2_loss),
    "portable": Arithmetic(
        initial.initial, portable_schedules.learning_rate, rules.update_rule, portable_optim.l2_loss
    ),
}
"""By the values of `train.arithmetic`."""


def check_sums_stay_exact(config: Config, rows: int, outputs: int) -> None:
    """Raise ConfigError if mini-batches of so many training rows, or the outputs, are too many for exact sums."""
    if config.train.arithmetic != "portable":
        return
    batch = min(config.train.batch_size, rows)
    if batch > MOST:
        raise ConfigError(
            f"train.batch_size is {config.train.batch_size}, and with train.arithmetic=portable, whose sums are exact, "
            f"a mini-batch has at most {MOST} examples: lower train.batch_size, or leave out train.arithmetic"
        )
    if outputs > MOST:
        raise ConfigError(
            f"the model has {outputs} outputs, and with train.arithmetic=portable, whose sums are exact, it has at "
            f"most {MOST}: leave out train.arithmetic"
        )
