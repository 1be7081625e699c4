"""Update rules that divide the gradient by its own size in earlier steps: AdaGrad, RMSProp, Adam and AdamW.

Below, g is the gradient of the mini-batch with L2 and clipping, as optim.py defines it; squares, roots and quotients
are elementwise. What is taken off the weights in the end is αd, d the direction of a rule, and αδW with weight decay δ.
Formulas and defaults are PyTorch's, with which every step agrees up to the rounding of float32.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import ModuleType

from distsgd.config import OptimConfig
from distsgd.config.sections import BETA2, EPSILON
from distsgd.core.net import Array
from distsgd.core.optim import add_decay
from distsgd.core.update_rule import Slots, Step, decay_of

BETA1 = 0.9
"""Adam's β1 if it is not set."""


class _Adaptive(ABC):
    """What these rules have in common: everything but the direction."""

    slots: tuple[str, ...]
    squares: str
    """The name of the slot with the squared gradients, which may overflow before anything else does."""

    def __init__(self, config: OptimConfig) -> None:
        self._l2, self._decay = config.l2, decay_of(config)
        self._epsilon = EPSILON[config.rule] if config.epsilon is None else config.epsilon

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
        total *= xp.float32(step.clip / step.weight)
        if self._l2:
            add_decay(total, weights, 2 * self._l2 * step.clip, biases=biases, scratch=scratch, xp=xp)
        self._scale(total, slots, step=step, slots_out=slots_out, scratch=scratch, xp=xp)
        if self._decay:
            add_decay(total, weights, self._decay * step.lr, biases=biases, scratch=scratch, xp=xp)
        xp.subtract(weights, total, out=out)
        # A square that float32 does not hold would stop a parameter for good, by a quotient of 0; now it is found.
        xp.multiply(slots_out[self.squares], 0, out=scratch)
        out += scratch

    @abstractmethod
    def _scale(self, g: Array, slots: Slots, *, step: Step, slots_out: Slots, scratch: Array, xp: ModuleType) -> None:
        """Overwrite the gradient g by αd, d the rule's direction, and write the new state."""


class AdaGrad(_Adaptive):
    """s ← s + g²,  W ← W − αg / (√s + ε).

    Duchi, Hazan and Singer, "Adaptive subgradient methods", 2011. Defaults α = 0.01, ε = 1e-10; s begins with 0,
    and the learning rate does not decay otherwise.
    """

    slots: tuple[str, ...] = ("squares",)
    squares = "squares"

    def _scale(self, g: Array, slots: Slots, *, step: Step, slots_out: Slots, scratch: Array, xp: ModuleType) -> None:
        squares = slots_out["squares"]
        xp.multiply(g, g, out=scratch)
        xp.add(slots["squares"], scratch, out=squares)
        xp.sqrt(squares, out=scratch)
        scratch += xp.float32(self._epsilon)
        g *= xp.float32(step.lr)
        g /= scratch


class RMSProp(_Adaptive):
    """s ← β2 s + (1 − β2) g²,  W ← W − αg / (√s + ε).

    Tieleman and Hinton, "Lecture 6.5: RMSProp", 2012. Defaults α = 0.01, β2 = 0.99 (PyTorch's `alpha`), ε = 1e-8; not
    centred, and without momentum.
    """

    slots: tuple[str, ...] = ("squares",)
    squares = "squares"

    def __init__(self, config: OptimConfig) -> None:
        super().__init__(config)
        self._beta2 = BETA2[config.rule] if config.beta2 is None else config.beta2

    def _scale(self, g: Array, slots: Slots, *, step: Step, slots_out: Slots, scratch: Array, xp: ModuleType) -> None:
        squares = slots_out["squares"]
        xp.multiply(slots["squares"], xp.float32(self._beta2), out=squares)
        xp.multiply(g, g, out=scratch)
        scratch *= xp.float32(1 - self._beta2)
        squares += scratch
        xp.sqrt(squares, out=scratch)
        scratch += xp.float32(self._epsilon)
        g *= xp.float32(step.lr)
        g /= scratch


class Adam(_Adaptive):
    """m ← β1 m + (1 − β1) g,  v ← β2 v + (1 − β2) g²,  m̂ = m / (1 − β1ᵗ),  v̂ = v / (1 − β2ᵗ),  W ← W − αm̂ / (√v̂ + ε).

    Kingma and Ba, "Adam", 2015, algorithm 1; t counts the steps from 1, skipped ones too. Defaults α = 0.001, β1 = 0.9,
    β2 = 0.999, ε = 1e-8. AdamW (Loshchilov and Hutter, 2019) is the same with the weight decay δ = 0.01; `optim.l2`
    applies to both. PyTorch's weight decay, of Adam an L2 term and of AdamW decoupled, applies to biases too.

    scikit-learn computes αm √(1 − β2ᵗ) / ((1 − β1ᵗ)(√v + ε)), the form at the end of the paper's section 2: as if ε
    were divided by √(1 − β2ᵗ), so its ε is 32 times as large in the first step, and the same after some thousands.
    """

    slots: tuple[str, ...] = ("mean", "squares")
    squares = "squares"

    def __init__(self, config: OptimConfig) -> None:
        super().__init__(config)
        self._beta1 = BETA1 if config.beta1 is None else config.beta1
        self._beta2 = BETA2[config.rule] if config.beta2 is None else config.beta2

    def _scale(self, g: Array, slots: Slots, *, step: Step, slots_out: Slots, scratch: Array, xp: ModuleType) -> None:
        mean, squares = slots_out["mean"], slots_out["squares"]
        xp.multiply(slots["mean"], xp.float32(self._beta1), out=mean)
        xp.multiply(g, xp.float32(1 - self._beta1), out=scratch)
        mean += scratch
        xp.multiply(slots["squares"], xp.float32(self._beta2), out=squares)
        g *= g
        g *= xp.float32(1 - self._beta2)
        squares += g
        xp.sqrt(squares, out=scratch)
        of_squares, of_mean = self._corrections(step)
        scratch *= xp.float32(of_squares)
        scratch += xp.float32(self._epsilon)
        xp.multiply(mean, xp.float32(of_mean), out=g)
        g /= scratch

    def _corrections(self, step: Step) -> tuple[float, float]:
        """Return the factors of √v, and of m with the learning rate."""
        return (1 - self._beta2**step.number) ** -0.5, step.lr / (1 - self._beta1**step.number)
