"""What a generator is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis.strategies import SearchStrategy

from hostile.sandbox import Problem, Sandbox


@dataclass(frozen=True)
class Generator:
    """Cases, plain data, and what tries one in a sandbox that is empty but for the rows."""

    cases: Callable[[], SearchStrategy[Any]]
    check: Callable[[Any, Sandbox], list[Problem]]
    share: float = 1.0
    """How many of its cases are tried, next to those of the others; those that take long get fewer."""


def small_run(run_dir: str = "run", **values: object) -> list[str]:
    """Return the arguments of a run of a moment in this process, without tracking."""
    settings = {
        "data.train": "rows.npz",
        "run.workers": 0,
        "run.dir": run_dir,
        "model.hidden": 3,
        "train.max_steps": 4,
        "train.batch_size": 16,
        "train.num_shards": 2,
        "tracking.enabled": "false",
    } | {key.replace("__", "."): value for key, value in values.items()}
    return ["train", *(f"--set={key}={value}" for key, value in settings.items())]
