"""Observers of a sweep's progress."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from distsgd.run.observer import Observer
from distsgd.sweeps.trial import State


@dataclass(kw_only=True)
class Row:
    """A trial as it is shown."""

    number: int
    parameters: dict[str, Any]
    state: State = "PENDING"
    epoch: float | None = None
    epochs: float | None = None
    """Those of the whole run."""
    loss: float | None = None
    """That of the held-out rows; before the first validation that of the last mini-batch."""
    is_validated: bool = False
    accuracy: float | None = None
    error: str | None = None
    is_best: bool = False
    """Whether it has the best result so far; of a setting with several seeds, whether that has the best mean so far."""
    seeds: int = 1
    """Trials of its setting."""
    finished_seeds: int = 0
    """Those that have finished, which the mean is over."""


class SweepObserver(Observer):
    """Callbacks for the progress of a sweep. This one does nothing; those of the command line print it."""

    def sweep_started(self, rows: Sequence[Row], *, at_once: int, path: str) -> None:
        """Called when trials begin, `at_once` of them at a time; the rows change from then on, and more are added."""

    def trial_changed(self, row: Row) -> None:
        """Called when a trial's state changes."""

    def progressed(self) -> None:
        """Called several times a second, after the rows have been brought up to date."""
