"""Update rules: how a step changes the parameters, and the state that a rule keeps from one step to the next.

A rule names its state vectors, its `slots`; snapshots, checkpoints, the serial loop and the parameter server store
them by name and know nothing else about them. All operations of a rule are elementwise, block by block, on NumPy or
CuPy arrays, and everything else that it uses is in `Step`, so any process may own any blocks. To add one, write a class
like `SGD`, enter it in `RULES`, and name it in the choices of `optim.rule`. Those with a learning rate of its own for
each parameter are in adaptive_rules.py.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

from distsgd.config import OptimConfig
from distsgd.core.adaptive_rules import AdaGrad, Adam, RMSProp
from distsgd.core.net import Array
from distsgd.core.optim import add_decay
from distsgd.core.update_rule import Slots, Step, UpdateRule, decay_of

__all__ = ["RULES", "SGD", "Slots", "Step", "UpdateRule", "update_rule"]


class SGD:
    """Stochastic gradient descent, plain or with momentum.

    plain       W ← W − αg
    momentum    v ← μv − αg,  W ← W + v                    (Polyak, 1964; Sutskever et al., 2013)
    Nesterov    v ← μv − αg,  W ← W + μv − αg              (Bengio et al., "Advances in optimizing recurrent
                                                            networks", 2013, eq. 7: the look-ahead weights)

    With weight decay δ, αδW is taken off the weights as well, past the momentum (SGDW of Loshchilov and Hutter, 2019).
    PyTorch's v is −v/α: it multiplies by the learning rate where the weights are updated, which differs while a
    schedule changes α.
    """

    def __init__(self, config: OptimConfig) -> None:
        self._l2, self._momentum, self._nesterov = config.l2, config.momentum, config.nesterov
        self._decay = decay_of(config)
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
            if self._decay:
                add_decay(total, weights, self._decay * step.lr, biases=biases, scratch=scratch, xp=xp)
            xp.subtract(weights, total, out=out)  # W − αg
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
        if self._decay:
            total.fill(0)
            add_decay(total, weights, self._decay * step.lr, biases=biases, scratch=scratch, xp=xp)
            out -= total


RULES: dict[str, Callable[[OptimConfig], UpdateRule]] = {
    "sgd": SGD,
    "adagrad": AdaGrad,
    "rmsprop": RMSProp,
    "adam": Adam,
    "adamw": Adam,
}
"""The update rules by name; `optim.rule` is a key."""


def update_rule(config: OptimConfig) -> UpdateRule:
    """Return the update rule for a configuration."""
    return RULES[config.rule](config)
