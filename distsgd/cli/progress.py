"""Progress output of a run: a progress bar on a terminal, otherwise a line for each epoch."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import click
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.segment import Segment

from distsgd.cli.bar import Bar, stage_line
from distsgd.cli.lines import Pace, Throughput, opening, progress
from distsgd.run.observer import Observer
from distsgd.system.jobs import submission_id

if TYPE_CHECKING:
    from distsgd.engine.spec import RunSpec

SILENT_S = 1.5
"""Seconds after which a stage before or after training is reported, if nothing else was printed meanwhile."""

AGAIN_S = 10.0
"""Seconds after which it is reported again."""

WITHIN_EPOCH_S = 60.0
"""Seconds without a line after which a plain line is printed within an epoch."""

ALL_EPOCHS = 100
"""Epochs up to which a run has a plain line for each of them."""

BETWEEN_LINES_S = 1.0
"""Minimum seconds between two plain lines of a run with more epochs."""

RATE_S = 5.0
"""Seconds of steps that the bar's samples per second are averaged over."""


@contextlib.contextmanager
def make_observer(*, quiet: bool) -> Iterator[Observer]:
    """Yield the observer that suits standard error: live on a terminal, plain otherwise."""
    console = Console(stderr=True, highlight=False)
    with contextlib.ExitStack() as stack:
        if quiet:
            yield QuietObserver()
        elif console.is_terminal and not console.is_dumb_terminal:
            yield stack.enter_context(LiveObserver(console))
        else:
            yield stack.enter_context(PlainObserver())


class QuietObserver(Observer):
    """Prints only warnings."""

    def note(self, text: str) -> None:
        """Print a warning to standard error."""
        if text.startswith("warning:"):
            click.echo(text, err=True)


class PlainObserver(Observer):
    """Prints plain lines to standard error; in a Ray job with the time of day.

    There is one for each epoch, one a minute within longer epochs, and one for each stage before or after training that
    takes more than a moment.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._timed = submission_id() is not None
        self._changed = threading.Condition()
        self._watching = threading.Thread(target=self._watch, name="progress", daemon=True)
        self._stage, self._reported, self._closed = "", "", False
        self._printed = self._since = clock()

    def __enter__(self) -> Self:
        self._watching.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._watching.join()

    def _print(self, text: str) -> None:
        self._printed = self._clock()
        click.echo(f"{datetime.now():%Y-%m-%d %H:%M:%S} {text}" if self._timed else text, err=True)

    def _watch(self) -> None:
        """Report a stage that takes long; ends with the observer."""
        with self._changed:
            while not self._closed:
                self._changed.wait(SILENT_S / 3)
                if not self._closed:
                    self.report_stage()

    def report_stage(self) -> None:
        """Print what is being done if nothing was printed for a while."""
        now, kind = self._clock(), kind_of(self._stage)
        again = kind == self._reported
        if self._stage and now - self._printed >= (AGAIN_S if again else SILENT_S):
            self._reported = kind
            self._print(f"{self._stage} ... {f'{now - self._since:.0f} s' * again}".rstrip())

    def stage(self, text: str) -> None:
        """Remember it; it is printed if it takes long."""
        with self._changed:
            if kind_of(text) != kind_of(self._stage):
                self._since = self._clock()
            self._stage = text

    def note(self, text: str) -> None:
        """Print it."""
        with self._changed:
            self._print(text)

    def started(self, spec: RunSpec, run_dir: Path, *, nodes: int) -> None:
        """Print what is trained."""
        self._plan = spec.plan
        self._pace = Pace(spec.start.step, spec.plan.total_steps, self._clock())
        self._rate = Throughput(spec.start.step)
        with self._changed:
            self._stage = ""
            self._print(opening(spec, run_dir, nodes))

    def tracked(self, link: str) -> None:
        """Print it in a Ray job, whose log is read elsewhere while it runs; others see it when they have finished."""
        if self._timed:
            self.note(f"MLflow run: {link}")

    def logged(self, record: Mapping[str, Any]) -> None:
        """Print the record if it ends an epoch, or if the last line is old."""
        now, step, plan = self._clock(), record["step"], self._plan
        self._pace.add(step, now)
        self._rate.add(record)
        if step == plan.epoch_end(step - 1):
            few = plan.epoch(plan.total_steps) <= ALL_EPOCHS
            due = few or step == plan.total_steps or now - self._printed >= BETWEEN_LINES_S
        else:
            due = now - self._printed >= WITHIN_EPOCH_S
        if due:
            with self._changed:
                self._print(progress(record, plan, self._rate.samples_per_s(), self._pace.left_s(now)))
            self._rate.clear()


class LiveObserver(Observer):
    """A progress bar on a terminal, and a line that moves while something else takes its time."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._ascii = not console.encoding.lower().startswith("utf")
        self._bar: Bar | None = None
        self._stage, self._since = "", 0.0
        self._live = Live(self, console=console, refresh_per_second=8, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._stage = ""
        with contextlib.suppress(OSError):  # the terminal may have been closed
            self._live.stop()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the bar, if training has begun, and what else is being done."""
        now = time.monotonic()
        if self._bar is not None:
            yield self._bar.line(self._pace.left_s(now), options.max_width, ascii_only=self._ascii)
        if self._stage:
            if self._bar is not None:
                yield Segment.line()
            yield stage_line(self._stage, now - self._since, ascii_only=self._ascii)

    def stage(self, text: str) -> None:
        """Show it below the bar, with a clock."""
        if kind_of(text) != kind_of(self._stage):
            self._since = time.monotonic()
        self._stage = text

    def note(self, text: str) -> None:
        """Print above the bar."""
        self._console.print(text, markup=False, emoji=False)

    def started(self, spec: RunSpec, run_dir: Path, *, nodes: int) -> None:
        """Print what is trained and start the bar, which stays when the run is over."""
        plan, step = spec.plan, spec.start.step
        self._stage = ""
        self._console.print(opening(spec, run_dir, nodes), markup=False, emoji=False)
        self._pace = Pace(step, plan.total_steps, time.monotonic())
        self._rate = Throughput(step, window_s=RATE_S)
        total = plan.total_steps
        self._bar = Bar(step=step, total=total, epoch=plan.epoch(step), epochs=plan.epoch(total))
        self._live.transient = False

    def logged(self, record: Mapping[str, Any]) -> None:
        """Update the bar."""
        assert self._bar is not None
        self._pace.add(record["step"], time.monotonic())
        self._rate.add(record)
        self._bar.step, self._bar.epoch = record["step"], record["epoch"]
        self._bar.loss = record.get("train/loss", self._bar.loss)
        self._bar.accuracy = record.get("val/accuracy", self._bar.accuracy)
        self._bar.r2 = record.get("val/r2", self._bar.r2)
        self._bar.rate = self._rate.samples_per_s()


def kind_of(stage: str) -> str:
    """Return the text of a stage without its count."""
    return stage.rpartition(": ")[0] or stage
