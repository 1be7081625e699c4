"""The trials of a sweep: what each is, how far it is, and which setting is the best."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from distsgd.sweeps.space import SEED

State = Literal["PENDING", "RUNNING", "FINISHED", "PRUNED", "FAILED", "KILLED"]

OVER = ("FINISHED", "PRUNED", "FAILED")
"""The states of trials that are not trained again when a sweep is resumed."""


@dataclass(frozen=True)
class Metric:
    """What the trials are compared by."""

    key: str
    """Its name in `result.json`."""
    lower_is_better: bool

    @classmethod
    def named(cls, stopping_metric: str) -> Metric:
        """Return the metric that `train.stopping_metric` names."""
        return cls(f"val/{stopping_metric}", lower_is_better=stopping_metric == "loss")

    def of(self, figures: Mapping[str, Any] | None) -> float | None:
        """Return the value in a result or a journal line; None if it was not measured or is not finite."""
        found = figures or {}
        value = found.get(self.key, found.get(self.key.removeprefix("val/")))  # 0.1 had `macro_f1` alone
        return float(value) if isinstance(value, int | float) and math.isfinite(value) else None

    def rank(self, value: float) -> float:
        """Return what is smaller for better values."""
        return value if self.lower_is_better else -value


@dataclass(kw_only=True)
class Trial:
    """One run of a sweep."""

    number: int
    """Counted from 1; the run directory is named after it."""
    setting: int
    """The number of its setting, counted from 0, which trials with other seeds share."""
    parameters: dict[str, Any]
    """The values of the keys that the trials differ in, the seed of repetitions included."""
    run_dir: str
    state: State = "PENDING"
    result: dict[str, Any] | None = None
    """What `result.json` says, once there is one."""
    error: str | None = None
    """Why it failed."""
    repeats: bool = False
    """Whether it would fail again, at the same step."""

    @property
    def is_over(self) -> bool:
        """Whether there is nothing left to train."""
        return self.state in OVER


@dataclass(frozen=True)
class Setting:
    """The trials of one combination of values, which differ in their seeds."""

    number: int
    trials: list[Trial]

    @property
    def parameters(self) -> dict[str, Any]:
        """The values that its trials share."""
        shared = dict(self.trials[0].parameters)
        if len(self.trials) > 1:
            shared.pop(SEED, None)
        return shared

    @property
    def is_complete(self) -> bool:
        """Whether all its trials have finished."""
        return all(trial.state == "FINISHED" for trial in self.trials)

    @property
    def is_over(self) -> bool:
        """Whether none of its trials is left to train."""
        return all(trial.is_over for trial in self.trials)

    def values(self, metric: Metric) -> list[float]:
        """Return the metric of its finished trials."""
        found = [metric.of(trial.result) for trial in self.trials if trial.state == "FINISHED"]
        return [value for value in found if value is not None]

    def mean(self, metric: Metric) -> float | None:
        """Return the mean over its finished trials; None if there are none."""
        values = self.values(metric)
        return statistics.fmean(values) if values else None

    def spread(self, metric: Metric) -> float | None:
        """Return the standard deviation over its finished trials; None if there are fewer than two."""
        values = self.values(metric)
        return statistics.stdev(values) if len(values) > 1 else None


def settings_of(trials: Iterable[Trial]) -> list[Setting]:
    """Return the settings of trials, in their order."""
    found: dict[int, list[Trial]] = {}
    for trial in trials:
        found.setdefault(trial.setting, []).append(trial)
    return [Setting(number, members) for number, members in sorted(found.items())]


def ranked(trials: Iterable[Trial], metric: Metric) -> list[Setting]:
    """Return the settings with a finished trial, best first: by their means, those without a failed trial first.

    A setting that failed with one of its seeds would otherwise be judged by the seeds that it was lucky with.
    """
    measured = [(setting, mean) for setting in settings_of(trials) if (mean := setting.mean(metric)) is not None]
    return [s for s, mean in sorted(measured, key=lambda p: (not p[0].is_complete, metric.rank(p[1]), p[0].number))]


def best_trial(setting: Setting, metric: Metric) -> Trial:
    """Return the best of a setting's finished trials."""
    finished = [(trial, value) for trial in setting.trials if (value := _finished(trial, metric)) is not None]
    return min(finished, key=lambda pair: (metric.rank(pair[1]), pair[0].number))[0]


def _finished(trial: Trial, metric: Metric) -> float | None:
    return metric.of(trial.result) if trial.state == "FINISHED" else None
