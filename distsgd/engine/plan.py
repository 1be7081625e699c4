"""The plan of a run: the rows and the learning rate of each step, and where epochs and the run end."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from distsgd.config import Config
from distsgd.core.reduction import SUMMATIONS, Summation
from distsgd.core.sampling import Sampler
from distsgd.data.bounds import RunBounds
from distsgd.engine.arithmetic import ARITHMETICS
from distsgd.engine.snapshot import UNKNOWN, EpochLoss


def summation(config: Config) -> Summation:
    """Return how the gradients of a run's mini-batches are added.

    Exact sums need no fixed shards: each example is one, so that workers get equal shares of whatever number.
    """
    train = config.train
    return SUMMATIONS[train.arithmetic](train.batch_size if train.arithmetic == "portable" else train.num_shards)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The rows and the learning rate of each step, and where epochs and the run end. Steps are counted from 0."""

    sampler: Sampler
    total_steps: int
    config: Config
    updates_before: int = 0
    """Added to the number of an update, which some update rules need: a state from elsewhere has had another number of
    updates than steps are counted here."""
    bounds: RunBounds | None = None
    """Those of the run's rows, if sums are to be exact."""

    @classmethod
    def of(cls, config: Config, rows: int, updates_before: int = 0, bounds: RunBounds | None = None) -> Plan:
        """Return the plan of a run over `rows` training rows."""
        train = config.train
        sampler = Sampler(
            rows=rows,
            batch_size=train.batch_size,
            num_shards=summation(config).num_shards,
            seed=train.seed,
            replacement=train.sampling == "replacement",
        )
        total = train.epochs * sampler.steps_per_epoch
        if train.max_steps is not None:
            total = min(total, train.max_steps)
        return cls(sampler=sampler, total_steps=total, config=config, updates_before=updates_before, bounds=bounds)

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of the step that follows `step` steps."""
        steps_per_epoch = self.sampler.steps_per_epoch
        rate = ARITHMETICS[self.config.train.arithmetic].learning_rate
        return rate(self.config.optim, step, steps_per_epoch=steps_per_epoch, total_steps=self.total_steps)

    def update_number(self, step: int) -> int:
        """Return the number of the update, from 1, in the step that follows `step` steps."""
        return step + 1 + self.updates_before

    def epoch(self, step: int) -> float:
        """Return the number of epochs, possibly fractional, after `step` steps."""
        return step / self.sampler.steps_per_epoch

    def epoch_end(self, step: int) -> int:
        """Return the step at which the current epoch ends after `step` steps, or the run if that is earlier."""
        steps = self.sampler.steps_per_epoch
        return min((step // steps + 1) * steps, self.total_steps)

    def is_evaluated(self, step: int) -> bool:
        """Return whether the parameters after `step` steps are validated."""
        steps = self.sampler.steps_per_epoch * self.config.train.eval_every
        return step == self.total_steps or step % steps == 0 < step

    def begins_epoch(self, step: int) -> bool:
        """Return whether the step that follows `step` steps is the first of an epoch."""
        return step % self.sampler.steps_per_epoch == 0

    def logged_steps(self, until: int) -> set[int]:
        """Return the steps up to `until` that are logged in the journal, except the last step of the run."""
        every = (self.config.train.log_every, self.sampler.steps_per_epoch)
        return {step for interval in every for step in range(interval, until + 1, interval)}

    def record(self, step: int, loss: float, *, skipped: int = 0, epoch_loss: EpochLoss = UNKNOWN) -> dict[str, Any]:
        """Return the journal record after `step` steps; `loss` is L of the last step's mini-batch.

        A non-finite loss is left out. The mean of `epoch_loss` is included at the end of an epoch, and of the run.
        """
        record = {"step": step, "epoch": self.epoch(step), "train/lr": self.learning_rate(step - 1)}
        if math.isfinite(loss):
            record["train/loss"] = loss
        mean = epoch_loss.mean
        if mean is not None and (self.begins_epoch(step) or step == self.total_steps):
            record["train/epoch_loss"] = mean
        if skipped:
            record["train/skipped_steps"] = skipped
        return record
