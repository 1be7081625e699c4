"""From a configuration to the check of its gradients."""

from __future__ import annotations

from collections.abc import Callable

from distsgd.config import Config
from distsgd.core.gradcheck import Comparison
from distsgd.core.losses import LOSSES
from distsgd.data import load
from distsgd.engine.gradcheck import check_first_batch
from distsgd.engine.spec import RunSpec


def check(config: Config, samples: int, stage: Callable[[str], None]) -> tuple[RunSpec, int, list[Comparison]]:
    """Return a run's spec, the number of rows of its first mini-batch, and the comparison of the gradients there.

    RefusedError as before training.
    """
    target, class_weight = LOSSES[config.model.loss].target, config.train.class_weight
    arithmetic = config.train.arithmetic
    rows = load(config.data, stage, target=target, class_weight=class_weight, arithmetic=arithmetic)
    spec = RunSpec.beginning(config, rows)
    return spec, *check_first_batch(spec, samples)
