"""The learning-rate range test (Smith, "Cyclical learning rates for training neural networks", 2017, section 3.3).

It is an ordinary run whose learning rate rises by the same factor in each step, until the loss diverges. So it is the
same, bit for bit, for any number of workers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distsgd.config import Config
from distsgd.errors import ConfigError, Stopped, TrackingError, TrainingError, counted
from distsgd.run.ending import Reason
from distsgd.run.observer import Observer
from distsgd.run.outcome import writing
from distsgd.run.train import train, with_data
from distsgd.rundir.result import Result
from distsgd.system.files import write_atomically
from distsgd.tracking.evaluation import log_evaluation

SMOOTHING = 0.95
"""Share of the running mean of the losses that is kept in a step."""

DIVERGED = 4.0
"""The loss has diverged when it is so many times its lowest value, both smoothed."""

DIVIDED_BY = 10.0
"""The suggestion is the rate of the lowest smoothed loss divided by this."""

FEWEST_STEPS = 20

BEGINNING = 20
"""Steps at the beginning in which no steepest fall is looked for."""

SPAN = 5
"""Steps before and after a step that its slope is measured over."""

PICTURE, FIGURES = "find_lr.png", "find_lr.json"


@dataclass(frozen=True, kw_only=True)
class RangeCurve:
    """Loss against learning rate. A step's loss is measured before the update with its rate."""

    rates: list[float]
    losses: list[float]
    """Of each step's mini-batch, L2 included."""
    smoothed: list[float]
    """Running mean of the losses, weighted by powers of SMOOTHING, and divided by the sum of these weights."""
    diverged_at: float | None
    """The rate at which the smoothed loss exceeded DIVERGED times its lowest value, or was not finite."""

    @classmethod
    def of(cls, records: Sequence[Mapping[str, Any]]) -> RangeCurve:
        """Return the curve of journal lines, up to the step at which the loss diverged."""
        rates, losses, smoothed = list[float](), list[float](), list[float]()
        running, weight, lowest = 0.0, 0.0, math.inf
        for record in records:
            rate, loss = record["train/lr"], record.get("train/loss", math.inf)
            running = SMOOTHING * running + (1 - SMOOTHING) * loss
            weight = SMOOTHING * weight + (1 - SMOOTHING)
            mean = running / weight
            if not math.isfinite(loss) or mean > DIVERGED * lowest:
                return cls(rates=rates, losses=losses, smoothed=smoothed, diverged_at=rate)
            rates.append(rate)
            losses.append(loss)
            smoothed.append(mean)
            lowest = min(lowest, mean)
        return cls(rates=rates, losses=losses, smoothed=smoothed, diverged_at=None)

    @property
    def lowest_at(self) -> float:
        """The rate of the lowest smoothed loss."""
        return self.rates[self.smoothed.index(min(self.smoothed))]

    @property
    def steepest_at(self) -> float:
        """The rate around which the smoothed loss falls fastest with the logarithm of the rate.

        The first steps are left out, as long as the running mean is one of a few losses.
        """
        places = range(min(BEGINNING, len(self.rates) - 1 - SPAN), len(self.rates) - SPAN)
        return self.rates[min(places, key=self._slope)]

    def _slope(self, place: int) -> float:
        before, after = max(0, place - SPAN), place + SPAN
        rise = self.smoothed[after] - self.smoothed[before]
        return rise / math.log(self.rates[after] / self.rates[before])

    @property
    def suggestion(self) -> float:
        """A tenth of the rate of the lowest smoothed loss, to two significant digits."""
        return float(f"{self.lowest_at / DIVIDED_BY:.2g}")


class UntilDiverged:
    """Ends the run when its loss has diverged, at a step that depends on the losses alone."""

    every = 10

    def __call__(self, records: Sequence[Mapping[str, Any]]) -> Reason | None:
        """See hooks.StepCheck."""
        return None if RangeCurve.of(records).diverged_at is None else Reason.DIVERGED


@dataclass(frozen=True, kw_only=True)
class FoundRate:
    """What a range test has found."""

    result: Result
    curve: RangeCurve
    picture: Path


def find_lr(
    config: Config | Mapping[str, Any] | None = None,
    *,
    low: float = 1e-5,
    high: float = 10.0,
    steps: int = 200,
    data: Any = None,
    observer: Observer | None = None,
) -> FoundRate:
    """Train for at most `steps` steps with learning rates from `low` to `high`, and return what the losses say.

    Everything else is as in the configuration. The picture and the figures are in the run directory, and in MLflow.
    ConfigError if the rates or the steps make no test; TrainingError if no rate can be suggested; Stopped on a signal.
    """
    if not (0 < low < high < math.inf):
        raise ConfigError(f"the learning rates go from {low:g} to {high:g}; expected 0 < lowest < highest")
    if steps < FEWEST_STEPS:
        raise ConfigError(f"a range test of {counted(steps, 'step')} says nothing; expected at least {FEWEST_STEPS}")
    observer = observer or Observer()
    asked = _configured(config, data, low, high, steps)
    try:
        result = train(asked, data=data, observer=observer, check=UntilDiverged())
    except Stopped as stopped:  # resumed as a run it would not end where the loss diverges
        raise Stopped("the range test was stopped; it cannot be resumed: begin again", signum=stopped.signum) from None
    curve = RangeCurve.of(result.records)
    if len(curve.rates) < FEWEST_STEPS // 2 or curve.lowest_at == curve.rates[0]:
        raise TrainingError(
            f"the loss did not fall with any learning rate from {low:g} on; begin with a lower one (--from), and look "
            f"at the rows: the losses are in {str(result.run_dir / 'metrics.jsonl')!r}"
        )
    if curve.diverged_at is None and curve.lowest_at == curve.rates[-1]:
        observer.note(
            f"warning: the loss fell until the last rate, {high:g}, so higher ones may be better than the suggestion: "
            "end with a higher one (--to)"
        )
    return FoundRate(result=result, curve=curve, picture=_written(result, curve, observer))


def _configured(config: object, data: Any, low: float, high: float, steps: int) -> Config:
    base = with_data(config, {"data.train": data})
    values = {
        "optim.lr": low,
        "optim.final_lr": high,
        "optim.schedule": "exponential",
        "optim.warmup_steps": 0,
        "train.max_steps": steps,
        "train.epochs": steps,  # enough, however few steps an epoch has
        "train.eval_every": steps,
        "train.log_every": 1,
        "train.on_nonfinite": "skip",  # the test ends by itself
        "train.early_stopping": None,
        "run.name": base.run.name or f"find-lr {low:g} to {high:g}",
    }
    return Config.build(base.explicit(), values)


def _written(result: Result, curve: RangeCurve, observer: Observer) -> Path:
    """Write picture and figures, and log them; return the picture's path."""
    from distsgd.rundir.range_figure import draw_range_test

    picture, file = result.run_dir / PICTURE, result.run_dir / FIGURES
    found = {"suggestion": curve.suggestion, "lowest_at": curve.lowest_at, "steepest_at": curve.steepest_at}
    if curve.diverged_at is not None:
        found["diverged_at"] = curve.diverged_at
    with writing(picture):
        draw_range_test(curve.rates, curve.losses, curve.smoothed, found, picture)
    with writing(file):
        write_atomically(file, (json.dumps(found, indent=2) + "\n").encode())
    if result.mlflow_run_id is not None:
        try:
            log_evaluation(result.run_dir, found, [picture, file], prefix="find_lr/", artifacts="find_lr")
        except TrackingError as error:
            observer.note(f"warning: {error}")
    return picture
