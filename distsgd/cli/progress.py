"""Progress output of a run: a progress bar on a terminal, otherwise a plain line every few seconds."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from distsgd.engine.spec import RunSpec
from distsgd.run.observer import Observer

PLAIN_EVERY_S = 5.0
"""Minimum seconds between two plain lines."""


@contextlib.contextmanager
def make_observer(*, quiet: bool) -> Iterator[Observer]:
    """Yield the observer that suits standard error: live on a terminal, plain otherwise."""
    if quiet:
        yield QuietObserver()
        return
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield PlainObserver()
        return
    with LiveObserver(console) as observer:
        yield observer


class QuietObserver(Observer):
    """Prints only warnings."""

    def note(self, text: str) -> None:
        """Print a warning to standard error."""
        if text.startswith("warning:"):
            click.echo(text, err=True)


def opening(spec: RunSpec, run_dir: Path) -> str:
    """Return a sentence that describes the net, its data, and where it is trained."""
    data, run, net = spec.data, spec.config.run, spec.net
    held_out = f" and {len(data.val)} held-out" if data.val is not None else ""
    where = "in this process" if run.workers == 0 else f"by {run.workers} worker{'s' * (run.workers != 1)} on Ray"
    return (
        f"training {net.features}-{net.hidden}-{net.classes} ({net.size:,} parameters) on {len(data.train):,}"
        f"{held_out} rows of {data.source}, {where} ({run.device}), into {run_dir}"
    )


def describe(record: Mapping[str, Any]) -> str:
    """Return a journal record as `epoch 1.2  step 120  loss 0.31  ...`."""
    parts = [f"epoch {record['epoch']:.2f}", f"step {record['step']}"]
    formats = {
        "train/loss": "loss {:.4f}",
        "val/loss": "val loss {:.4f}",
        "val/accuracy": "val accuracy {:.4f}",
        "time/samples_per_s": "{:,.0f} samples/s",
    }
    return "  ".join(parts + [form.format(record[key]) for key, form in formats.items() if key in record])


class PlainObserver(Observer):
    """Prints plain lines to standard error, a few a minute."""

    def __init__(self) -> None:
        self._printed = -PLAIN_EVERY_S

    def note(self, text: str) -> None:
        """Print it."""
        click.echo(text, err=True)

    def started(self, spec: RunSpec, run_dir: Path) -> None:
        """Print what is trained."""
        self._total = spec.plan.total_steps
        click.echo(opening(spec, run_dir), err=True)

    def logged(self, record: Mapping[str, Any]) -> None:
        """Print the record if the last one printed is old enough, or if it is the final record."""
        now = time.monotonic()
        if now - self._printed >= PLAIN_EVERY_S or record["step"] == self._total:
            self._printed = now
            click.echo(describe(record), err=True)


class LiveObserver(Observer):
    """A progress bar on a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("epoch {task.fields[epoch]:.1f}/{task.fields[epochs]:.0f}"),
            BarColumn(bar_width=None),
            TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            TextColumn("loss {task.fields[loss]}"),
            TextColumn("val acc {task.fields[accuracy]}"),
            TextColumn("{task.fields[rate]} samples/s"),
            TimeRemainingColumn(compact=True),
            console=console,
        )

    def __enter__(self) -> LiveObserver:
        self._progress.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        with contextlib.suppress(OSError):  # the terminal may have been closed
            self._progress.__exit__(*exception)

    def note(self, text: str) -> None:
        """Print above the bar."""
        self._console.print(text, markup=False)

    def started(self, spec: RunSpec, run_dir: Path) -> None:
        """Print what is trained and start the bar."""
        self._console.print(opening(spec, run_dir), markup=False)
        plan = spec.plan
        self._task = self._progress.add_task(
            "",
            total=plan.total_steps,
            completed=spec.start.step,
            epoch=plan.epoch(spec.start.step),
            epochs=plan.epoch(plan.total_steps),
            loss="-",
            accuracy="-",
            rate="-",
        )

    def logged(self, record: Mapping[str, Any]) -> None:
        """Update the bar."""
        fields: dict[str, Any] = {"epoch": record["epoch"]}
        if "train/loss" in record:
            fields["loss"] = f"{record['train/loss']:.4f}"
        if "val/accuracy" in record:
            fields["accuracy"] = f"{record['val/accuracy']:.4f}"
        if "time/samples_per_s" in record:
            fields["rate"] = f"{record['time/samples_per_s']:,.0f}"
        self._progress.update(self._task, completed=record["step"], **fields)
