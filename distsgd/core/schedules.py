"""Learning-rate schedules: pure functions of the configuration and the progress of a run.

To add one, write a function with the decorator `register`, and name it in the choices of `optim.schedule`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from distsgd.config import OptimConfig


class Progress(NamedTuple):
    """The progress of a run; everything except `epochs` in steps."""

    step: int
    """The current step, counted from 0."""
    epochs: float
    """The passes over the data before this step."""
    total_steps: int
    """The number of steps of the whole run."""


Schedule = Callable[[OptimConfig, Progress], float]

SCHEDULES: dict[str, Schedule] = {}
"""The schedules by name, a value of `optim.schedule`."""


_NEED_LENGTH: set[str] = set()


def register(name: str, *, length: bool = False) -> Callable[[Schedule], Schedule]:
    """Register the decorated function in `SCHEDULES`; `length` says that it depends on the length of the run."""

    def entered(schedule: Schedule) -> Schedule:
        SCHEDULES[name] = schedule
        if length:
            _NEED_LENGTH.add(name)
        return schedule

    return entered


def needs_length(name: str) -> bool:
    """Return whether a schedule's rates depend on the length of the run, which then cannot be made longer."""
    return name in _NEED_LENGTH


def learning_rate(config: OptimConfig, step: int, *, steps_per_epoch: int, total_steps: int) -> float:
    """Return the learning rate α of step `step`, counted from 0, of a run of `total_steps`.

    During warm-up it is α·(step + 1)/(warmup_steps + 1); after that the schedule determines it.
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / (config.warmup_steps + 1)
    return SCHEDULES[config.schedule](config, Progress(step, step / steps_per_epoch, total_steps))


@register("constant")
def constant(config: OptimConfig, progress: Progress) -> float:  # noqa: ARG001 - it is the same at any time
    """Return α."""
    return config.lr


@register("step")
def step_decay(config: OptimConfig, progress: Progress) -> float:
    """Return α·decay_factor^k after k·decay_every epochs."""
    return float(config.lr * config.decay_factor ** math.floor(progress.epochs / config.decay_every))


@register("cosine", length=True)
def cosine(config: OptimConfig, progress: Progress) -> float:
    """Return a rate between α, after the warm-up, and final_lr, at the last step.

    Loshchilov and Hutter, "SGDR: stochastic gradient descent with warm restarts", 2017, without the restarts.
    """
    last = max(progress.total_steps - 1 - config.warmup_steps, 1)
    fraction = min((progress.step - config.warmup_steps) / last, 1.0)
    return config.final_lr + (config.lr - config.final_lr) * (1 + math.cos(math.pi * fraction)) / 2


@register("exponential", length=True)
def exponential(config: OptimConfig, progress: Progress) -> float:
    """Return a rate that changes from α, after the warm-up, to final_lr, at the last step, by one factor each step."""
    last = max(progress.total_steps - 1 - config.warmup_steps, 1)
    fraction = min((progress.step - config.warmup_steps) / last, 1.0)
    return float(config.lr * (config.final_lr / config.lr) ** fraction)
