"""Whether a run can be made longer than it was configured: the steps that it has taken must stay what they were."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distsgd.config import Config
from distsgd.config.config import RESULT_SECTIONS
from distsgd.core.schedules import needs_length
from distsgd.errors import ConfigError, counted
from distsgd.rundir.directory import LENGTH_KEYS
from distsgd.rundir.result import Result


def resumed_config(stored: Config, given: Config, path: Path) -> Config:
    """Return the stored configuration with explicitly given values.

    ConfigError if they change the result, other than by making the run longer.
    """
    explicit = given.explicit()
    config = stored.with_values(explicit)
    if config.digest() == stored.digest():
        return config
    was, now = stored.flat(), config.flat()
    changed = [
        key
        for key in explicit
        if was[key] != now[key] and key.split(".")[0] in RESULT_SECTIONS and key not in config.irrelevant
    ]
    told = ", ".join(f"{key} was {was[key]!r} and is {now[key]!r}" for key in changed)
    if not set(changed) & set(LENGTH_KEYS):
        raise ConfigError(f"the run in {str(path)!r} cannot be resumed with another configuration: {told}")
    others = [key for key in changed if key not in LENGTH_KEYS]
    problem = _problem(stored, others, was, now)
    if problem is not None:
        raise ConfigError(f"the run in {str(path)!r} cannot be continued: {told}; {problem}")
    return config


def _problem(stored: Config, others: list[str], was: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Return why a run cannot be given another length, or None."""
    if others:
        return "beside train.epochs and train.max_steps, nothing that the weights depend on may change"
    if needs_length(stored.optim.schedule):
        return (
            f"with optim.schedule={stored.optim.schedule} the learning rate of every step depends on the length of the "
            "run, so the steps that it has taken would have been others; start a new run"
        )
    for key in LENGTH_KEYS:
        if _limit(now[key]) < _limit(was[key]):
            return f"{key} can only be raised; start a new run"
    return None


def _limit(value: int | None) -> float:
    return math.inf if value is None else value


def check_is_longer(config: Config, finished: Result, path: Path) -> None:
    """Raise ConfigError if a finished run would not get a single step more."""
    most = config.train.max_steps
    if config.train.epochs <= finished.epochs:
        what = f"train.epochs is {config.train.epochs}; raise it"
    elif most is not None and most <= finished.steps:
        what = f"train.max_steps is {most}; raise it, too"
    else:
        return
    raise ConfigError(
        f"the run in {str(path)!r} has finished after {counted(finished.steps, 'step')}, "
        f"{counted(finished.epochs, 'epoch')}, and is not continued: {what}"
    )
