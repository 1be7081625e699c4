"""A run as it is compared, whether it was read from its directory or from MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distsgd.config import Config

HIGHER_IS_BETTER = ("val/accuracy", "val/r2", "val/macro_f1", "val/roc_auc")
LOWER_IS_BETTER = ("val/loss", "train/loss")

METRICS = (*HIGHER_IS_BETTER, *LOWER_IS_BETTER)
"""The metrics that runs are compared by; by default the one that they were chosen by, or the first that they have."""

STOPPING = "train.stopping_metric"

SEEDS = ("train.seed", "seed", "random_state", "random_seed")
"""Parameters in which repetitions of a setting differ."""


LARGEST = 1e300
"""Values beyond are those of runs that diverged; MLflow's databases have the largest float in place of an infinity."""


MAX_STEP = 2.0**62
"""Larger steps are taken for this one."""


@dataclass(frozen=True)
class Curve:
    """The points of a metric, in the order of steps."""

    steps: NDArray[np.int64]
    values: NDArray[np.float64]
    times: NDArray[np.float64]
    """Milliseconds since 1970."""

    @classmethod
    def of(cls, points: list[tuple[int, float, float]]) -> Curve:
        """Return the curve of points (step, value, time); of two points of a step, the later one."""
        steps, values, times = np.array(points, np.float64).reshape(-1, 3).T
        order = np.lexsort((times, steps))
        last = order[np.append(np.diff(steps[order]) != 0, True)] if len(order) else order
        # Of other programs' runs there are steps that a float rounds up to what no integer of 64 bits holds.
        return cls(np.clip(steps[last], -MAX_STEP, MAX_STEP).astype(np.int64), values[last], times[last])

    def __len__(self) -> int:
        return len(self.steps)


@dataclass(frozen=True, kw_only=True)
class Run:
    """What is compared of a run."""

    name: str
    source: str
    """The run directory, or the ID in MLflow."""
    key: str
    """The same for a run that is found twice, in its directory and in MLflow."""
    status: str
    parameters: Mapping[str, Any]
    """By dotted key: all that the run was configured with, defaults included if the run is distsgd's."""
    exact: bool
    """Whether it is a run of distsgd, whose result its configuration and rows determine."""
    data_digest: str | None = None
    version: str | None = None
    weights_sha256: str | None = None
    numerics: Mapping[str, str] | None = None
    """The fingerprint of the arithmetic; None if it is not known, as of runs in MLflow."""
    rows: int | None = None
    """Number of training rows."""
    curves: Mapping[str, Curve] = field(default_factory=dict)
    in_sweep: bool = False
    """Whether it is a trial of a sweep, which chose its best one by `train.stopping_metric`."""

    @property
    def chosen_by(self) -> str | None:
        """The metric that it was to be judged by; None if it is no trial and `train.stopping_metric` is the default."""
        named = self.parameters.get(STOPPING)
        default = Config().flat()[STOPPING]
        return f"val/{named}" if named is not None and (self.in_sweep or named != default) else None

    @property
    def seed(self) -> Any:
        """The seed, or None."""
        return next((self.parameters[key] for key in SEEDS if key in self.parameters), None)

    def samples(self, steps: NDArray[np.int64]) -> NDArray[np.float64] | None:
        """Return the number of examples that were trained on after `steps` (n,); None if that is not known."""
        batch = self.parameters.get("train.batch_size")
        if not isinstance(batch, int):
            return None
        if self.rows is None:
            return steps.astype(np.float64) * batch
        per_epoch = -(-self.rows // batch)
        whole, rest = np.divmod(steps, per_epoch)
        samples: NDArray[np.float64] = (whole * self.rows + np.minimum(rest * batch, self.rows)).astype(np.float64)
        return samples

    def kept_at(self) -> int | None:
        """Return the step whose weights the run keeps: with early stopping the best, None for the last."""
        if self.parameters.get("train.early_stopping") is None:
            return None
        metric = f"val/{self.parameters.get(STOPPING, 'loss')}"
        curve = self.curves.get(metric)
        if curve is None or not len(curve):
            return None
        best = np.argmin(curve.values) if metric == "val/loss" else np.argmax(curve.values)
        return int(curve.steps[best])

    def final(self, metric: str) -> float | None:
        """Return a metric of the weights that the run keeps; None if it was not measured, or is no number."""
        curve, step = self.curves.get(metric), self.kept_at()
        if curve is None or not len(curve):
            return None
        value = float(curve.values[-1])
        if step is not None and metric.startswith("val/") and step in curve.steps:
            value = float(curve.values[np.flatnonzero(curve.steps == step)[-1]])
        return value if abs(value) < LARGEST else None  # which NaN is not, either

    @property
    def last_step(self) -> int:
        """The last step that anything was logged of."""
        return max((int(curve.steps[-1]) for curve in self.curves.values() if len(curve)), default=0)

    @property
    def seconds(self) -> float | None:
        """Seconds of the clock between the first and the last logged point."""
        times = [curve.times for curve in self.curves.values() if len(curve)]
        return (max(t.max() for t in times) - min(t.min() for t in times)) / 1000 if times else None
