"""What a sweep has found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from distsgd.rundir.result import Result
from distsgd.sweeps.trial import Metric, Setting, Trial, ranked


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """The trials of a sweep, and the best of them."""

    path: Path
    """The sweep's directory."""
    trials: list[Trial]
    metric: Metric
    """What they are compared by."""
    best: Trial
    """The best trial of the best setting."""
    command: str
    """The command that trains it again, to the same bits."""

    @property
    def settings(self) -> list[Setting]:
        """The settings with a finished trial, best first, by the mean over their seeds."""
        return ranked(self.trials, self.metric)

    @property
    def result(self) -> Result | None:
        """The result of the best trial, with its model."""
        return Result.read(Path(self.best.run_dir))
