"""A short run on rows of its own, and changes of single bits in what it has left."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import distsgd
from distsgd.engine.local import LocalTrainer
from distsgd.engine.snapshot import Snapshot
from distsgd.errors import Stopped
from distsgd.rundir.checkpoint_writer import Writer
from distsgd.verify.report import Report
from distsgd.verify.verification import verify

ROWS, FEATURES = 150, 6

KEYS: dict[str, Any] = {
    "run.workers": 0,
    "run.threads": 1,
    "model.hidden": 8,
    "optim.momentum": 0.9,
    "optim.lr": 0.05,
    "train.batch_size": 16,
    "train.epochs": 5,
    "train.log_every": 3,
    "tracking.enabled": False,
}
"""40 steps in 5 epochs of 8."""


def write_rows(path: Path) -> Path:
    """Write rows of numbers, uncompressed, so that a changed bit is a changed value."""
    rng = np.random.default_rng(7)
    X = rng.normal(size=(ROWS, FEATURES)).astype(np.float32)
    y = (X[:, 0] + X[:, 1] > 0).astype(np.int64) + (X[:, 2] > 1)
    columns = {f"x{number}": X[:, number] for number in range(FEATURES)} | {"label": y}
    pq.write_table(pa.table(columns), path, compression="none", use_dictionary=False, write_statistics=False)
    return path


def train(folder: Path, name: str = "run", *, resume: bool = False, **values: Any) -> Path:
    """Train a run in a folder with rows in it, and return its directory; all of its checkpoints get written.

    By itself the thread that writes them leaves out those that are old before their turn comes.
    """
    keys = {key.replace("__", "."): value for key, value in values.items()}
    rows = folder / "rows.parquet"
    if not rows.exists():
        write_rows(rows)
    submit = Writer.submit

    def submit_and_wait(writer: Writer, snapshot: Snapshot) -> None:
        submit(writer, snapshot)
        writer.flush()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Writer, "submit", submit_and_wait)
        distsgd.train({**KEYS, "data.train": str(rows), "run.dir": str(folder / name)} | keys, resume=resume)
    return folder / name


def stopped(folder: Path, monkeypatch: Any, step: int, name: str = "run", **values: Any) -> Path:
    """Train a run that a signal stops after some steps, the last of which is logged."""
    import signal

    run = LocalTrainer.run

    def run_until_the_stop(self: LocalTrainer, until: int, tick: Callable[[], None]) -> int:
        reached = run(self, min(until, step), tick)
        if reached == step:
            signal.raise_signal(signal.SIGTERM)
        return reached

    with monkeypatch.context() as patch:
        patch.setattr(LocalTrainer, "run", run_until_the_stop)
        with pytest.raises(Stopped, match=f"after step {step} of"):
            train(folder, name, **values)
    return folder / name


def copied(folder: Path, to: Path) -> Path:
    """Copy a folder with rows and run; return the run's directory there."""
    shutil.copytree(folder, to)
    return to / "run"


def verified(run: Path, **options: Any) -> Report:
    """Verify a run with the rows that lie beside it."""
    overrides = {"data.train": str(run.parent / "rows.parquet")} | options.pop("overrides", {})
    return verify(run, overrides=overrides, **options)


def flip(path: Path, bit: int) -> None:
    """Change one bit of a file."""
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
