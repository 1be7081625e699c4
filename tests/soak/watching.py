"""What each process of a run uses, sampled over time, and whether that grows."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from runs import command

MIB = 2**20

MEASURES = ("rss_mib", "pss_mib", "descriptors", "threads")

GROWTH = {"pss_mib": 16.0, "descriptors": 2.0, "threads": 2.0}
"""What each measure of a process may grow by in an hour, by a straight line through its samples.

The driver keeps the journal's lines in memory, which is about 4 MiB for an hour with a validation each second. RSS is
not judged: it counts pages that processes share, which Ray's object store touches at any time.
"""


@dataclass(frozen=True)
class Sample:
    """What one process used at one moment."""

    seconds: float
    """Since the sampling began."""

    pid: int
    name: str
    rss_mib: float
    pss_mib: float
    """Memory, with each shared page divided by the number of processes that share it."""

    descriptors: int
    threads: int


def sample(pid: int, seconds: float) -> Sample | None:
    """Return what a process uses now; None if it is gone."""
    folder = Path(f"/proc/{pid}")
    with contextlib.suppress(OSError, ValueError, StopIteration):
        rollup = (folder / "smaps_rollup").read_text().splitlines()
        kib = {line.split(":")[0]: int(line.split()[1]) for line in rollup[1:]}
        status = (folder / "status").read_text().splitlines()
        threads = next(int(line.split()[1]) for line in status if line.startswith("Threads:"))
        descriptors = len(list((folder / "fd").iterdir()))
        return Sample(seconds, pid, _name(pid), kib["Rss"] / 1024, kib["Pss"] / 1024, descriptors, threads)
    return None


def _name(pid: int) -> str:
    """Return a short name of a process: `ray::WorkerActor`, `gcs_server`, `python -m distsgd.cli`."""
    words = command(pid).split()
    if not words:
        return "?"
    name = words[0].rsplit("/", 1)[-1]
    if name.startswith("python"):
        script = next((word for word in words[1:] if not word.startswith("-")), "")
        return f"python {script.rsplit('/', 1)[-1]}"
    return name


def growth_per_hour(samples: Iterable[Sample], measure: str) -> float:
    """Return the slope of a straight line through a measure of one process, per hour."""
    return slope_per_hour([(one.seconds, getattr(one, measure)) for one in samples])


def slope_per_hour(points: Sequence[tuple[float, float]]) -> float:
    """Return the slope of a straight line through points of seconds and values, per hour; 0 for fewer than three."""
    if len(points) < 3:
        return 0.0
    seconds, values = np.array(points).T
    return float(np.polyfit(seconds, values, 1)[0]) * 3600


def report(samples: Iterable[Sample], *, after_s: float) -> tuple[list[str], list[str]]:
    """Return a table of all processes that lived to the end, and a sentence for each measure that grew too much.

    Only samples after `after_s` seconds count.
    """
    every = list(samples)
    end = max(one.seconds for one in every)
    by_process: dict[int, list[Sample]] = defaultdict(list)
    for one in every:
        if one.seconds >= after_s:
            by_process[one.pid].append(one)
    table, grown = [f"{'process':<34}{'PSS MiB':>20}{'descriptors':>16}{'threads':>12}   growth per hour"], []
    for pid, own in sorted(by_process.items()):
        if own[-1].seconds < end or len(own) < 3:
            continue
        slopes = {measure: growth_per_hour(own, measure) for measure in GROWTH}
        first, last = own[0], own[-1]
        table.append(
            f"{f'{first.name} ({pid})':<34}{f'{first.pss_mib:.1f} -> {last.pss_mib:.1f}':>20}"
            f"{f'{first.descriptors} -> {last.descriptors}':>16}{f'{first.threads} -> {last.threads}':>12}   "
            + ", ".join(f"{slope:+.2f} {measure}" for measure, slope in slopes.items())
        )
        grown += exceeded(f"{first.name} ({pid})", slopes, GROWTH)
    return table, grown


def exceeded(name: str, slopes: Mapping[str, float], limits: Mapping[str, float]) -> list[str]:
    """Return a sentence for each measure that grows by more in an hour than its limit."""
    return [
        f"{name}: {measure} grows by {slopes[measure]:.1f} an hour, more than {limit:g}"
        for measure, limit in limits.items()
        if slopes[measure] > limit
    ]
