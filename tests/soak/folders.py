"""What a run keeps on disk and in /dev/shm, sampled over time, and whether that grows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.soak.watching import MIB, exceeded, slope_per_hour

GROWING = ("metrics.jsonl", "mlflow.db")
"""Files that hold the history of a run; their size is not counted."""

GROWTH = {"files": 2.0, "mib": 16.0}
"""What each measure of a folder may grow by in an hour; Ray writes logs into its scratch folder."""


@dataclass(frozen=True)
class FolderSample:
    """What a folder held at one moment."""

    seconds: float
    name: str
    files: int
    mib: float
    """Size of the files other than those in GROWING."""


def sample_folder(name: str, path: Path, seconds: float) -> FolderSample:
    """Return what is in and below a folder now; files that vanish meanwhile are left out."""
    files, size = 0, 0
    for file in path.rglob("*"):
        with contextlib.suppress(OSError):
            if file.is_file() and not file.is_symlink():
                files += 1
                size += 0 if file.name in GROWING else file.stat().st_blocks * 512
    return FolderSample(seconds, name, files, size / MIB)


def report_folders(samples: Iterable[FolderSample], *, after_s: float) -> tuple[list[str], list[str]]:
    """Return a table of all folders, and a sentence for each measure that grew too much after `after_s` seconds."""
    every = [one for one in samples if one.seconds >= after_s]
    table, grown = [f"{'folder':<34}{'MiB':>20}{'files':>16}   growth per hour"], []
    for name in sorted({one.name for one in every}):
        own = [one for one in every if one.name == name]
        slopes = {kind: slope_per_hour([(one.seconds, getattr(one, kind)) for one in own]) for kind in GROWTH}
        first, last = own[0], own[-1]
        table.append(
            f"{name:<34}{f'{first.mib:.1f} -> {last.mib:.1f}':>20}{f'{first.files} -> {last.files}':>16}   "
            + ", ".join(f"{slope:+.2f} {kind}" for kind, slope in slopes.items())
        )
        grown += exceeded(name, slopes, GROWTH)
    return table, grown
