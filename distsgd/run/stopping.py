"""Early stopping: when validations bring no gain any more, and the best weights until then.

What it decides is a function of the journal's validations alone, so a run that is resumed ends as one that was not
interrupted. The best state is a checkpoint of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from distsgd.config import TrainConfig
from distsgd.engine.snapshot import Snapshot
from distsgd.errors import CheckpointError
from distsgd.run.ending import Reason
from distsgd.run.hooks import EpochEnd
from distsgd.rundir import checkpoint
from distsgd.rundir import directory as rundir
from distsgd.rundir.directory import RunDirectory


class Gains:
    """Which validation was the best, and how many since then have brought no gain."""

    def __init__(self, metric: str, patience: int, min_gain: float) -> None:
        self.metric, self._patience, self._min_gain = metric, patience, min_gain
        self._sign = -1.0 if metric == "val/loss" else 1.0
        self._history: list[tuple[int, float]] = []
        self._restart()

    def _restart(self) -> None:
        self.best, self.best_step, self.without_gain = -math.inf, None, 0

    best: float
    """The best value, with the sign that makes larger ones better."""
    best_step: int | None
    """The step that it was measured after; None before the first validation."""
    without_gain: int
    """Validations since the last one that was better than the best before it by at least `min_gain`."""

    def note(self, step: int, value: float) -> None:
        """Take in a validation; one that was taken in before, and those after it, are forgotten first."""
        if self._history and step <= self._history[-1][0]:
            before = [known for known in self._history if known[0] < step]
            self._history = []
            self._restart()
            for known in before:
                self.note(*known)
        self._history.append((step, value))
        value *= self._sign
        gained = value > self.best and value >= self.best + self._min_gain
        self.without_gain = 0 if gained else self.without_gain + 1
        if value > self.best:
            self.best, self.best_step = value, step

    @property
    def are_over(self) -> bool:
        """Whether training ends here."""
        return self.without_gain >= self._patience


class EarlyStopping:
    """A hook that keeps the best weights and ends training when there are no gains any more."""

    def __init__(
        self,
        config: TrainConfig,
        directory: RunDirectory,
        data_digest: str,
        records: Iterable[Mapping[str, Any]],
    ) -> None:
        """`records` are the journal's lines with validations up to the step that the run starts from."""
        assert config.early_stopping is not None
        self.gains = Gains(f"val/{config.stopping_metric}", config.early_stopping, config.min_gain)
        self._folder, self._identity = directory.path / rundir.BEST, rundir.identity(directory, data_digest)
        for record in records:
            if self.gains.metric in record:
                self.gains.note(record["step"], record[self.gains.metric])

    @property
    def reason(self) -> Reason | None:
        """Why training ends here; None if it goes on."""
        return Reason.NO_GAIN if self.gains.are_over else None

    def __call__(self, end: EpochEnd) -> Reason | None:
        """Take in the validation of an epoch's end, and write its weights if they are the best."""
        if end.interrupted or not end.is_evaluated:
            return None
        self.gains.note(end.step, end.metrics[self.gains.metric])
        if self.gains.best_step == end.step:
            # Once the run is made longer, its last validation does not count if it is none of an epoch's end.
            checkpoint.save(self._folder, end.snapshot, self._identity, keep=2 if end.is_last else 1)
        return self.reason

    def kept(self, newest: Snapshot) -> Snapshot:
        """Return the state with the best weights; CheckpointError if they are gone from the disk."""
        if self.gains.best_step is None or self.gains.best_step == newest.step:
            return newest
        problem: object = "the folder holds others"
        try:
            found, problems = checkpoint.load_all(self._folder, self._identity)
            if self.gains.best_step in found:
                return found[self.gains.best_step]
            problem = "; ".join(f"{name}: {text}" for name, text in problems.items()) or problem
        except OSError as error:
            problem = error.strerror
        raise CheckpointError(
            f"the best weights, those after step {self.gains.best_step}, are not in {str(self._folder)!r} ({problem}); "
            "start a new run"
        )

    def told(self, epoch: float) -> str:
        """Return what the user is told of the end; `epoch` is that of the best weights."""
        count = self.gains.without_gain
        since = f"no gain in {self.gains.metric} for {count} validation{'s' if count > 1 else ''}"
        why = since if self.gains.are_over else "all epochs are done"
        return f"{why}; the weights are the best, after epoch {epoch:g}"
