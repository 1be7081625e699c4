"""Code shared by all contestants: command line, timing, sampling of mini-batches and the line they print."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.shapes import Shape, parse_shape

LR = 0.01
"""Learning rate of all contestants; small enough that values stay finite during a measurement."""

L2 = 1e-4
"""λ of all contestants; the gradient contains 2λW, which frameworks call a weight decay of 2λ."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """The arguments of a contestant."""

    shape: Shape
    data: Path
    """Folder with X.npy, y.npy and data.npz: see shapes.make_data."""
    workers: int
    """Processes that share a mini-batch, for a contestant with several."""
    threads: int
    """Threads of a contestant that runs as one process."""
    num_shards: int
    """Shards of a mini-batch; used by distsgd only."""
    warm_up_s: float
    """Seconds of training at the start that are not counted."""
    seconds: float
    """Seconds of training that are counted."""
    overrides: Sequence[str] = ()
    """Further settings, `KEY=VALUE`; used by distsgd only."""

    def load(self) -> tuple[np.ndarray, np.ndarray]:
        """Return features (N, D), float32 or uint8, and classes (N,) int64, loaded into this process's memory."""
        return np.load(self.data / "X.npy"), np.load(self.data / "y.npy")


class StepClock:
    """Measures the durations of steps, except during the warm-up."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._began = self._last = time.perf_counter()
        self.durations: list[float] = []

    def restart(self) -> None:
        """Exclude the time since the last step, such as the end of an epoch."""
        self._last = time.perf_counter()

    def step(self, count: int = 1) -> bool:
        """Record that `count` steps have ended; return whether there is time for more."""
        now = time.perf_counter()
        duration, self._last = (now - self._last) / count, now
        passed = now - self._began
        if passed > self._task.warm_up_s:
            self.durations.append(duration)
        return passed < self._task.warm_up_s + self._task.seconds

    def summary(self) -> dict[str, Any]:
        """Return the summary of the recorded steps."""
        return summary(self.durations)


def summary(durations: list[float]) -> dict[str, Any]:
    """Return the median and the 95th percentile, in milliseconds, of `durations` in seconds."""
    p50, p95 = np.percentile(np.array(durations) * 1e3, [50, 95])
    return {"step_ms_p50": float(p50), "step_ms_p95": float(p95), "samples": len(durations)}


def shuffled(rows: int, batch: int, seed: int, share: slice) -> Iterator[np.ndarray]:
    """Yield without end, epoch after epoch, the row numbers in the part `share` of each shuffled mini-batch.

    All processes of a run draw the same order from `seed`, and each takes its own share.
    """
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(rows)
        for start in range(0, rows, batch):
            yield order[start : start + batch][share]


def share_of(rank: int, workers: int, batch: int) -> slice:
    """Return the positions of a mini-batch that belong to process `rank` of `workers`."""
    return slice(batch * rank // workers, batch * (rank + 1) // workers)


def main(measure: Callable[[Task], dict[str, Any]]) -> None:
    """Parse the command line, run a contestant and print its result as a line of JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", type=parse_shape, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--num-shards", type=int, required=True)
    parser.add_argument("--warm-up", dest="warm_up_s", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    click.echo(json.dumps(measure(Task(**vars(parser.parse_args())))))
