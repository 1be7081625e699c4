"""Training that leaves no files: from a data set to parameters, with the trainers of every other run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from distsgd.cluster.connection import joined
from distsgd.config import Config
from distsgd.core.optim import l2_loss
from distsgd.data import DataSet
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


def fit(
    config: Config,
    data: DataSet,
    start: Callable[[RunSpec], Snapshot],
    epoch_ended: Callable[[FittedEpoch], bool],
) -> RunSpec:
    """Train from the state that `start` makes of the run's beginning; `epoch_ended` returns whether to go on.

    Journal, checkpoints and MLflow are left out; all else is as in `run.train`, on threads or on Ray. Raises
    ConfigError, ResourceError and TrainingError.
    """
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(joined(config, environment(config)))
        beginning = start(RunSpec.beginning(config, data))
        spec, trainer = start_trainer(config, data, beginning, cluster, stack, lambda _: None)
        step = beginning.step
        while step < spec.plan.total_steps:
            step = trainer.run(spec.plan.epoch_end(step), lambda: None)
            trainer.take_records()
            snapshot = trainer.snapshot()
            measured = trainer.evaluate(lambda: None)
            with np.errstate(over="ignore"):
                decay = l2_loss(spec.net, snapshot.parameters, config.optim.l2, np)
            loss = (snapshot.epoch_loss.mean or 0.0) + decay
            metrics = {} if measured is None else measured.metrics
            if not epoch_ended(FittedEpoch(loss=loss, metrics=metrics, snapshot=snapshot)):
                break
        return spec
