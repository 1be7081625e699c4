"""What every update rule is given and does, and the weight decay that all of them may have."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any, NamedTuple, Protocol

from distsgd.config import OptimConfig
from distsgd.config.sections import WEIGHT_DECAY
from distsgd.core.net import Array

Slots = Mapping[str, Any]
"""State vectors float32, by name, each as long as the parameters that it belongs to."""


class Step(NamedTuple):
    """The numbers of a step that all its blocks share."""

    weight: float
    """The sum of the weights of the mini-batch's examples: their number if all weights are 1."""
    lr: float
    """Learning rate α."""
    clip: float
    """The factor that limits the norm of the gradient to optim.clip_norm; 1 without clipping."""
    number: int
    """The number t of the step in the run, from 1; steps that were skipped count, so that all processes know it."""


class UpdateRule(Protocol):
    """An update rule, with its settings."""

    slots: tuple[str, ...]
    """The names of its state vectors, which are zero at the start of a run; `parameters` is reserved."""

    def update(
        self,
        total: Array,
        weights: Array,
        slots: Slots,
        *,
        step: Step,
        biases: tuple[slice, ...],
        out: Array,
        slots_out: Slots,
        scratch: Array,
        xp: ModuleType,
    ) -> None:
        """Write a block's updated weights to `out`, and its updated state to `slots_out`.

        `total` is the sum of the examples' gradients. All vectors are float32, of the block's length; `total` and
        `scratch` are overwritten, `weights` and `slots` are left as they are. Neither L2 nor weight decay applies to
        `biases`. If the gradient is not finite, or the new state would not be, then `out` is not either.
        """
        ...


def decay_of(config: OptimConfig) -> float:
    """Return the decoupled weight decay δ of a configuration.

    In each step αδW is taken off the weights, α the learning rate of the step, apart from what the rule does with the
    gradient (Loshchilov and Hutter, "Decoupled weight decay regularization", 2019). L2 is part of the gradient instead,
    and with a rule that divides by the size of the gradients, it hardly reaches weights whose gradients are large.
    """
    return WEIGHT_DECAY.get(config.rule, 0.0) if config.weight_decay is None else config.weight_decay
