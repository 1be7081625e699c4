"""The learning rates of core/schedules.py, with the same bits on every machine."""

from __future__ import annotations

import math
from collections.abc import Callable

from distsgd.config import OptimConfig
from distsgd.core import schedules
from distsgd.core.portable.scalars import cos_of_half_turns, power, power_of_ratio
from distsgd.core.schedules import Progress, Schedule


def learning_rate(config: OptimConfig, step: int, *, steps_per_epoch: int, total_steps: int) -> float:
    """Return the learning rate α of a step; see core/schedules.py."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / (config.warmup_steps + 1)
    return SCHEDULES[config.schedule](config, Progress(step, step / steps_per_epoch, total_steps))


def step_decay(config: OptimConfig, progress: Progress) -> float:
    """Return α·decay_factor^k after k·decay_every epochs."""
    return config.lr * power(config.decay_factor, math.floor(progress.epochs / config.decay_every))


def cosine(config: OptimConfig, progress: Progress) -> float:
    """See schedules.cosine."""
    return config.final_lr + (config.lr - config.final_lr) * (1 + cos_of_half_turns(_fraction(config, progress))) / 2


def exponential(config: OptimConfig, progress: Progress) -> float:
    """See schedules.exponential."""
    return config.lr * power_of_ratio(config.final_lr, config.lr, _fraction(config, progress))


def _fraction(config: OptimConfig, progress: Progress) -> float:
    """Return which part of the run after the warm-up is done."""
    last = max(progress.total_steps - 1 - config.warmup_steps, 1)
    return min((progress.step - config.warmup_steps) / last, 1.0)


_OWN: dict[str, Callable[[OptimConfig, Progress], float]] = {
    "step": step_decay,
    "cosine": cosine,
    "exponential": exponential,
}

SCHEDULES: dict[str, Schedule] = schedules.SCHEDULES | _OWN
"""The schedules by name; those that need no more than basic operations are the same functions."""
