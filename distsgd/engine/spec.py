"""The run spec: everything that determines the result of a run, resolved before any process starts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distsgd.config import Config
from distsgd.core.net import Net
from distsgd.core.update_rules import update_rule
from distsgd.data import DataSet
from distsgd.engine.plan import Plan
from distsgd.engine.snapshot import Snapshot


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """Configuration, rows, net, plan, and the state to start from."""

    config: Config
    data: DataSet
    net: Net
    plan: Plan
    start: Snapshot

    @classmethod
    def beginning(cls, config: Config, data: DataSet, start: Snapshot | None = None) -> RunSpec:
        """Return the spec of a run that resumes from `start`, or starts at step 0 if that is None."""
        model = config.model
        net = Net(
            data.train.features,
            model.hidden,
            len(data.classes),
            activation=model.activation,
            loss=model.loss,
            label_smoothing=config.train.label_smoothing,
        )
        if start is None:
            flat = net.initial(config.train.seed, model.scale)
            slots = {name: np.zeros_like(flat) for name in update_rule(config.optim).slots}
            start = Snapshot(step=0, parameters=flat, slots=slots)
        return cls(config=config, data=data, net=net, plan=Plan.of(config, len(data.train)), start=start)
