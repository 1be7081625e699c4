"""Progress output of a sweep: a table on a terminal, otherwise a line for each trial."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from distsgd.cli.bar import stage_line
from distsgd.cli.lines import epochs, measured
from distsgd.cli.progress import WITHIN_EPOCH_S, LiveObserver, PlainObserver, QuietObserver
from distsgd.cli.python_warnings import PREFIX, WarningObserver
from distsgd.errors import counted
from distsgd.sweeps.observer import Row, SweepObserver

AROUND = 6
"""Lines of a terminal that the table leaves for what is around its rows."""

STYLES = {"RUNNING": "cyan", "FINISHED": "green", "FAILED": "red", "PRUNED": "yellow", "KILLED": "yellow"}


@contextlib.contextmanager
def make_sweep_observer(*, quiet: bool) -> Iterator[SweepObserver]:
    """Yield the observer that suits standard error: live on a terminal, plain otherwise."""
    console = Console(stderr=True, highlight=False)
    with contextlib.ExitStack() as stack:
        if quiet:
            yield QuietSweepObserver()
        elif console.is_terminal and not console.is_dumb_terminal:
            yield stack.enter_context(LiveSweepObserver(console))
        else:
            yield stack.enter_context(PlainSweepObserver())


def in_words(parameters: Mapping[str, Any]) -> str:
    """Return parameters as `optim.lr=0.1 train.seed=1`."""
    return " ".join(f"{key}={value}" for key, value in parameters.items())


class WarningSweepObserver(WarningObserver, SweepObserver):
    """Issues a sweep's warnings, and its failed trials, as Python's: in scripts, where nothing else is shown."""

    def sweep_started(self, rows: Sequence[Row], *, at_once: int, path: str) -> None:  # noqa: ARG002
        """See SweepObserver.sweep_started."""
        self.hold()

    def trial_changed(self, row: Row) -> None:
        """Keep a failure for the end."""
        if row.state == "FAILED":
            self.note(f"{PREFIX}trial {row.number} ({in_words(row.parameters)}) failed: {row.error}")


class QuietSweepObserver(QuietObserver, SweepObserver):
    """Prints only warnings, and trials that fail."""

    def trial_changed(self, row: Row) -> None:
        """Print a failure to standard error."""
        if row.state == "FAILED":
            click.echo(f"trial {row.number} ({in_words(row.parameters)}) failed: {row.error}", err=True)


class PlainSweepObserver(PlainObserver, SweepObserver):
    """Prints a plain line to standard error when a trial has ended, and once a minute one about those that run."""

    _rows: Sequence[Row] = ()

    def sweep_started(self, rows: Sequence[Row], *, at_once: int, path: str) -> None:
        """Print how many trials there are."""
        self._rows = rows
        with self._changed:
            self._stage = ""
            self._print(f"sweep of {counted(len(rows), 'trial')}, {at_once} at a time, into {path}")

    def trial_changed(self, row: Row) -> None:
        """Print the figures of a trial that has ended."""
        if row.state in ("PENDING", "RUNNING"):
            return
        parts = [f"trial {row.number}/{len(self._rows)}", in_words(row.parameters), row.state, *_figures(row)]
        ending = f": {_best(row)} so far" * row.is_best + f": {row.error}" * (row.error is not None)
        with self._changed:
            self._print("  ".join(parts) + ending)

    def progressed(self) -> None:
        """Print what runs, if nothing was printed for a while."""
        if self._clock() - self._printed >= WITHIN_EPOCH_S:
            running = [
                "  ".join([f"trial {row.number}", in_words(row.parameters), *_figures(row)])
                for row in self._rows
                if row.state == "RUNNING"
            ]
            with self._changed:
                self._print(f"running: {'; '.join(running)}" if running else "waiting for processes")


class LiveSweepObserver(LiveObserver, SweepObserver):
    """A table of the trials on a terminal: those that run, and the best of those that have ended."""

    _rows: Sequence[Row] = ()
    _title = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the table, if trials have begun, and what else is being done."""
        if self._rows:
            yield table(self._rows, self._title, options.size.height - AROUND)
        if self._stage:
            if self._rows:
                yield Segment.line()
            yield stage_line(self._stage, time.monotonic() - self._since, ascii_only=self._ascii)

    def sweep_started(self, rows: Sequence[Row], *, at_once: int, path: str) -> None:
        """Show the table, which stays when the sweep is over."""
        self._rows, self._stage = rows, ""
        self._title = f"{at_once} at a time, into {path}"
        self._live.transient = False

    def trial_changed(self, row: Row) -> None:
        """Print why a trial has failed above the table."""
        if row.state == "FAILED":
            self.note(f"trial {row.number} ({in_words(row.parameters)}) failed: {row.error}")


def table(rows: Sequence[Row], title: str, height: int) -> Group:
    """Return the table below a line with counts; of more than `height` trials those that run, and the best ones."""
    counts = Counter(row.state for row in rows)
    states = ", ".join(f"{count} {state.lower()}" for state, count in counts.items())
    found = Table(box=None)
    found.add_column("trial", justify="right")
    keys = list(dict.fromkeys(key for row in rows for key in row.parameters))
    for name in (*keys, "epoch", "loss", "accuracy"):
        found.add_column(name, justify="right")
    found.add_column("state")
    for row in _shown(rows, max(3, height)):
        values = [str(row.parameters.get(key, "")) for key in keys]
        style = "bold" if row.is_best else None
        state = f"[{STYLES.get(row.state, 'dim')}]{row.state}[/]" + f" ({_best(row)})" * row.is_best
        found.add_row(str(row.number), *values, *_cells(row), state, style=style)
    return Group(Text(f"{counted(len(rows), 'trial')}: {states}; {title}"), found)


def _shown(rows: Sequence[Row], height: int) -> list[Row]:
    """Return the rows for which there is room, in the order of their numbers."""
    if len(rows) <= height:
        return list(rows)
    order = {"RUNNING": 0, "FINISHED": 1, "FAILED": 3, "PRUNED": 3, "KILLED": 3, "PENDING": 2}
    loss = [(order[row.state] if not row.is_best else -1, row.loss if row.loss is not None else 1e308) for row in rows]
    chosen = sorted(range(len(rows)), key=lambda place: (*loss[place], place))[:height]
    return [rows[place] for place in sorted(chosen)]


def _cells(row: Row) -> list[str]:
    epoch = "" if row.epoch is None else epochs(row.epoch) + ("" if row.epochs is None else f"/{epochs(row.epochs)}")
    loss = "" if row.loss is None else measured(row.loss)
    return [epoch, loss, "" if row.accuracy is None else f"{row.accuracy:.4f}"]


def _best(row: Row) -> str:
    """Return what a mark says: settings with several seeds are compared by their means."""
    return "best" if row.seeds == 1 else f"best mean, of {row.finished_seeds}/{row.seeds} seeds"


def _figures(row: Row) -> list[str]:
    names = ("epoch", "loss", "accuracy")
    return [f"{name} {cell}" for name, cell in zip(names, _cells(row), strict=True) if cell]
