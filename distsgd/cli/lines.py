"""The texts that report a run's progress: its opening line, the line of an epoch, numbers, durations, plurals."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distsgd.errors import counted

if TYPE_CHECKING:
    from distsgd.engine.plan import Plan
    from distsgd.engine.spec import RunSpec


WINDOW_S = 120.0
"""Seconds of training that the remaining time is estimated from."""

UNITS = {"G": 1e9, "M": 1e6, "k": 1e3}


class Pace:
    """Estimates the remaining time of a run from the steps of the last minutes, validations included."""

    def __init__(self, step: int, total: int, now: float) -> None:
        """`step` of `total` steps are done at `now`, in seconds of any clock."""
        self._total = total
        self._seen = deque([(now, step)])

    def add(self, step: int, now: float) -> None:
        """Note that `step` steps are done at `now`."""
        self._seen.append((now, step))
        while len(self._seen) > 2 and self._seen[1][0] < now - WINDOW_S:
            self._seen.popleft()

    def left_s(self, now: float) -> float | None:
        """Return the seconds that are left at `now`; None if no step was timed yet."""
        (began, first), (seen, last) = self._seen[0], self._seen[-1]
        if last >= self._total:
            return 0.0
        if last <= first or seen <= began:
            return None
        return max(0.0, (self._total - last) * (seen - began) / (last - first) - (now - seen))


class Throughput:
    """The samples per second of the latest steps, from journal records, each of which has that of a few steps."""

    def __init__(self, step: int, *, window_s: float = math.inf) -> None:
        """`step` steps are done; only the latest `window_s` seconds of steps count."""
        self._step, self._window_s = step, window_s
        self._spans: deque[tuple[float, float]] = deque()  # seconds, samples

    def add(self, record: Mapping[str, Any]) -> None:
        """Add the steps up to a record."""
        steps, self._step = record["step"] - self._step, record["step"]
        if "time/samples_per_s" in record:
            seconds = steps * record["time/step_ms"] / 1e3
            self._spans.append((seconds, seconds * record["time/samples_per_s"]))
        while len(self._spans) > 1 and sum(seconds for seconds, _ in self._spans) > self._window_s:
            self._spans.popleft()

    def samples_per_s(self) -> float | None:
        """Return the samples per second; None if nothing was timed."""
        seconds = sum(span[0] for span in self._spans)
        return sum(span[1] for span in self._spans) / seconds if seconds else None

    def clear(self) -> None:
        """Forget all steps up to now."""
        self._spans.clear()


def opening(spec: RunSpec, run_dir: Path, nodes: int) -> str:
    """Return a sentence that describes the net, its data, and where it is trained."""
    data, run, net = spec.data, spec.config.run, spec.net
    held_out = f" and {len(data.val):,} held-out" if data.val is not None else ""
    workers = run.workers if isinstance(run.workers, int) else 1
    where = f"by {counted(workers, 'worker')} on {counted(nodes, 'node')}" if workers else "in this process"
    return (
        f"training {net.widths} ({counted(net.size, 'parameter')}) on {len(data.train):,}"
        f"{held_out} rows of {data.source}, {where} ({run.device}), into {run_dir}"
    )


def progress(record: Mapping[str, Any], plan: Plan, rate: float | None, left_s: float | None) -> str:
    """Return a journal record as `epoch 3/30  step 69/690  loss 0.3100  ...  0:01:12 left`."""
    total, formats = plan.total_steps, {"train/loss": "loss", "val/loss": "val loss"}
    formats |= {"val/accuracy": "val accuracy", "val/r2": "val R²"}
    parts = [f"epoch {epochs(record['epoch'])}/{epochs(plan.epoch(total))}", f"step {record['step']:,}/{total:,}"]
    parts += [f"{name} {measured(record[key])}" for key, name in formats.items() if key in record]
    if rate is not None:
        parts.append(f"{rate:,.0f} samples/s")
    if left_s is not None and record["step"] < total:
        parts.append(f"{duration(left_s)} left")
    return "  ".join(parts)


def epochs(number: float) -> str:
    """Return `3`, `2.43`."""
    return f"{number:.2f}".rstrip("0").rstrip(".")


def measured(value: float) -> str:
    """Return a loss or an accuracy with four decimals, or with a power of ten if these do not show it."""
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e5 else f"{value:.3e}"


def compact(number: float) -> str:
    """Return a number with two or three digits: `950`, `28k`, `1.2M`."""
    unit = next((unit for unit, size in UNITS.items() if number >= 0.9995 * size), "")
    number /= UNITS.get(unit, 1)
    return f"{number:.{1 if unit and number < 9.95 else 0}f}{unit}"


def duration(seconds: float) -> str:
    """Return seconds as `0:01:12`."""
    minutes, second = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{second:02}"
