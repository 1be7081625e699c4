"""Update rules: how a step changes the parameters, and the state that a rule keeps from one step to the next.

A rule names its state vectors, its `slots`; snapshots, checkpoints, the serial loop and the parameter server store
them by name and know nothing else about them. All operations of a rule are elementwise, block by block, on NumPy or
CuPy arrays. To add one, write a class like `SGD`, enter it in `RULES`, and name it in the configuration's choices.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any, NamedTuple, Protocol

from distsgd.config import OptimConfig
from distsgd.core.net import Array
from distsgd.core.optim import add_decay

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
        `scratch` are overwritten, `weights` and `slots` are left as they are. L2 does not apply to `biases`.
        """
        ...


class SGD:
    """Stochastic gradient descent, plain or with momentum.

    plain       W ← W − αg
    momentum    v ← μv − αg,  W ← W + v                    (Polyak, 1964; Sutskever et al., 2013)
    Nesterov    v ← μv − αg,  W ← W + μv − αg              (Bengio et al., "Advances in optimizing recurrent
                                                            networks", 2013, eq. 7: the look-ahead weights)
    """

    def __init__(self, config: OptimConfig) -> None:
        self._l2, self._momentum, self._nesterov = config.l2, config.momentum, config.nesterov
        self.slots: tuple[str, ...] = ("velocity",) if config.momentum else ()

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
        """See UpdateRule.update."""
        lr = step.lr * step.clip
        total *= xp.float32(lr / step.weight)  # αg, still without the L2 term
        decay = 2 * self._l2 * lr
        if decay:
            add_decay(total, weights, decay, biases=biases, scratch=scratch, xp=xp)
        if not self.slots:
            xp.subtract(weights, total, out=out)
            return
        velocity, momentum = slots_out["velocity"], xp.float32(self._momentum)
        xp.multiply(slots["velocity"], momentum, out=velocity)
        velocity -= total
        if self._nesterov:
            xp.subtract(weights, total, out=out)
            xp.multiply(velocity, momentum, out=scratch)
            out += scratch
        else:
            xp.add(weights, velocity, out=out)


RULES = {"sgd": SGD}
"""The update rules, by name."""


def update_rule(config: OptimConfig) -> UpdateRule:
    """Return the update rule for a configuration."""
    return RULES["sgd"](config)
