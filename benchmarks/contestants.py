"""The contestants, each run as a separate program with its number of threads set in the environment."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.shapes import Shape
from distsgd.core.numerics import THREAD_VARIABLES

REPOSITORY = Path(__file__).resolve().parent.parent

SLACK_S = 300.0
"""Seconds allowed for startup and the last steps, for the slowest contestant."""

DEFAULT_SHARDS = 4
"""distsgd's default for `train.num_shards`."""


@dataclass(frozen=True)
class Contestant:
    """A program in benchmarks/peers."""

    name: str
    label: str
    module: str
    one_process: bool = False
    """Whether it is one process with threads on all cores, rather than one process with one thread per worker."""
    num_shards: int | None = None
    """Shards that distsgd splits a mini-batch into; None means one per worker."""
    needs: str | None = None
    """An optional module that it requires."""
    overrides: tuple[str, ...] = ()
    """Further settings of distsgd's, `KEY=VALUE`."""

    def missing(self) -> str | None:
        """Return why it cannot run here, or None if it can."""
        if self.needs is None or importlib.util.find_spec(self.needs) is not None:
            return None
        return f"{self.needs} is not installed; pip install '.[bench]'"


OURS = Contestant("distsgd", "distsgd, a shard for each worker", "distsgd_run")
OURS_DEFAULT = Contestant(
    "distsgd-default", f"distsgd, {DEFAULT_SHARDS} shards", "distsgd_run", num_shards=DEFAULT_SHARDS
)
OURS_PORTABLE = Contestant(
    "distsgd-portable", "distsgd, portable", "distsgd_run", overrides=("train.arithmetic=portable",)
)
BOUND = Contestant("bound", "arithmetic alone, plain NumPy", "bound")

CONTESTANTS = (
    OURS,
    OURS_DEFAULT,
    Contestant("ddp", "PyTorch DDP, gloo", "torch_ddp", needs="torch"),
    Contestant("torch", "PyTorch, one process, all cores", "torch_single", one_process=True, needs="torch"),
    Contestant("sklearn", "scikit-learn MLPClassifier", "sklearn_mlp", one_process=True),
    Contestant("ray", "Ray actors, NumPy", "ray_actors"),
    BOUND,
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings shared by all measurements of a comparison."""

    workers: int
    threads: int
    """Threads of contestants that run as one process: one per core."""
    seconds: float
    warm_up_s: float = 1.0
    overrides: tuple[str, ...] = ()
    """Further settings of distsgd's, `KEY=VALUE`."""


class ContestantError(Exception):
    """A contestant exited without a measurement."""


def command(contestant: Contestant, shape: Shape, data: Path, settings: Settings) -> list[str]:
    """Return the command line of a contestant."""
    arguments = {
        "shape": shape,
        "data": data,
        "workers": settings.workers,
        "threads": settings.threads,
        "num-shards": contestant.num_shards or settings.workers,
        "warm-up": settings.warm_up_s,
        "seconds": settings.seconds,
    }
    program = [sys.executable, "-m", f"benchmarks.peers.{contestant.module}"]
    given = [text for name, value in arguments.items() for text in (f"--{name}", str(value))]
    return [*program, *given, *(f"--set={override}" for override in (*settings.overrides, *contestant.overrides))]


def measure(contestant: Contestant, shape: Shape, data: Path, settings: Settings) -> dict[str, Any]:
    """Run a contestant once and return the JSON it printed. Raises ContestantError, with its output, if it failed."""
    threads = str(settings.threads if contestant.one_process else 1)
    environment = os.environ | dict.fromkeys(THREAD_VARIABLES, threads)
    limit = SLACK_S + settings.warm_up_s + settings.seconds
    with subprocess.Popen(
        command(contestant, shape, data, settings),
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, errors = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            raise ContestantError(f"{contestant.name} at {shape} had not ended after {limit:g} s") from None
        finally:  # kill its child processes too, so that they do not disturb the next contestant
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode:
        raise ContestantError(
            f"{contestant.name} at {shape} ended with exit code {process.returncode}:\n{output}{errors}"
        )
    measured: dict[str, Any] = json.loads(output.splitlines()[-1])
    return measured
