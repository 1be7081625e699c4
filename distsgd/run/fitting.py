"""Training that leaves no files: from a data set to parameters, with the trainers of every other run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from distsgd.cluster.connection import joined
from distsgd.config import Config
from distsgd.data import DataSet
from distsgd.engine.arithmetic import ARITHMETICS
from distsgd.engine.snapshot import Snapshot
from distsgd.engine.spec import RunSpec
from distsgd.run.trainer import environment, start_trainer


@dataclass(frozen=True, kw_only=True)
class FittedEpoch:
    """An epoch that has ended."""

    loss: float
    """Mean loss of its mini-batches, each before its update, plus L2 of the weights at its end."""
    metrics: dict[str, float]
    """Of the held-out rows, if there are some."""
    snapshot: Snapshot
    steps: int
    """Steps that it took."""


def fit(
    config: Config,
    data: DataSet,
    start: Callable[[RunSpec], Snapshot],
    epoch_ended: Callable[[FittedEpoch], bool],
    *,
    updates: int | None = None,
) -> RunSpec:
    """Train from the state that `start` makes of the run's beginning; `epoch_ended` returns whether to go on.

    `updates` is the number of updates that this state has had, if that is not its step.

    Journal, checkpoints and MLflow are left out; all else is as in `run.train`, on threads or on Ray. Raises
    ConfigError, ResourceError and TrainingError.
    """
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(joined(config, environment(config)))
        beginning = start(RunSpec.beginning(config, data))
        before = 0 if updates is None else updates - beginning.step
        spec, trainer = start_trainer(
            config, data, beginning, cluster, stack, lambda _: None, name="distsgd", updates_before=before
        )
        step = beginning.step
        while step < spec.plan.total_steps:
            began, step = step, trainer.run(spec.plan.epoch_end(step), lambda: None)
            trainer.take_records()
            snapshot = trainer.snapshot()
            measured = trainer.evaluate(lambda: None)
            with np.errstate(over="ignore"):
                decay = ARITHMETICS[spec.net.arithmetic].l2_loss(spec.net, snapshot.parameters, config.optim.l2, np)
            loss = (snapshot.epoch_loss.mean or 0.0) + decay
            metrics = {} if measured is None else measured.metrics
            if not epoch_ended(FittedEpoch(loss=loss, metrics=metrics, snapshot=snapshot, steps=step - began)):
                break
        return spec
