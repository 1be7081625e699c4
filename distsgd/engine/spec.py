"""The run spec: everything that determines the result of a run, resolved before any process starts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distsgd.config import Config
from distsgd.core.net import Net
from distsgd.core.update_rules import update_rule
from distsgd.data import DataSet
from distsgd.engine.arithmetic import ARITHMETICS, check_sums_stay_exact
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
    def beginning(
        cls, config: Config, data: DataSet, start: Snapshot | None = None, *, updates_before: int = 0
    ) -> RunSpec:
        """Return the spec of a run that resumes from `start`, or starts at step 0 if that is None; see Plan.

        ConfigError for what its arithmetic cannot do.
        """
        check_sums_stay_exact(config, len(data.train), len(data.classes))
        model = config.model
        net = Net(
            data.train.features,
            model.hidden,
            len(data.classes),
            activation=model.activation,
            loss=model.loss,
            label_smoothing=config.train.label_smoothing,
            arithmetic=config.train.arithmetic,
        )
        if start is None:
            flat = ARITHMETICS[net.arithmetic].initial(net, config.train.seed, model.scale)
            slots = {name: np.zeros_like(flat) for name in update_rule(config.optim).slots}
            start = Snapshot(step=0, parameters=flat, slots=slots)
        bounds = data.bounds if net.arithmetic == "portable" else None
        plan = Plan.of(config, len(data.train), updates_before, bounds)
        return cls(config=config, data=data, net=net, plan=plan, start=start)
