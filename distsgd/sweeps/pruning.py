"""Which trials are not worth their end: their validations beside those of the finished ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from distsgd.errors import RunDirectoryError
from distsgd.rundir.journal import Reader
from distsgd.sweeps.trial import Metric, Trial


class Pruner:
    """Keeps the validations of trials, as far as they are known, and applies the median rule to them."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric
        self._running: dict[int, dict[int, float]] = {}
        self._finished: dict[int, dict[int, float]] = {}

    def note(self, trial: Trial, records: Iterable[Mapping[str, Any]]) -> bool:
        """Take in new lines of a trial's journal; return whether there is a validation among them."""
        found = self._validations(records)
        if found and trial.number not in self._running:  # one that was resumed has had others before
            with suppress(RunDirectoryError):  # of that trial alone: it is judged by what it does from now on
                self._running[trial.number] = self._in_journal(trial)
        if found:
            self._running.setdefault(trial.number, {}).update(found)
        return bool(found)

    def is_hopeless(self, trial: Trial, trials: Iterable[Trial]) -> bool:
        """Return whether a trial is worse than the median of the finished ones among `trials` was by then."""
        from distsgd.sweeps.search import is_hopeless

        curve = self._running.get(trial.number)
        if not curve:
            return False
        others = [self._of_finished(other) for other in trials if other.state == "FINISHED"]
        known = [other for other in others if other]
        return is_hopeless(curve, known, lower_is_better=self._metric.lower_is_better)

    def _of_finished(self, trial: Trial) -> dict[int, float]:
        """Return all validations of a finished trial."""
        if trial.number not in self._finished:
            self._finished[trial.number] = self._in_journal(trial)
        return self._finished[trial.number]

    def _in_journal(self, trial: Trial) -> dict[int, float]:
        return self._validations(Reader(Path(trial.run_dir) / "metrics.jsonl").new())

    def _validations(self, records: Iterable[Mapping[str, Any]]) -> dict[int, float]:
        """Return the metric in the lines that have it, by step."""
        values = {record["step"]: self._metric.of(record) for record in records}
        return {step: value for step, value in values.items() if value is not None}
