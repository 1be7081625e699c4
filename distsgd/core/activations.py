"""Activations of the hidden layer, one class each: forward and backward pass in place, and the scale of its weights.

To add one, write a class like `ReLU`, enter it in `ACTIVATIONS`, and name it in the choices of `model.activation`.
This file is copied into every model that is logged to MLflow, so it needs NumPy alone.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any, Protocol

Array = Any
"""A NumPy or a CuPy array."""


class Activation(Protocol):
    """h = f(a), elementwise, of the hidden layer's pre-activations a (n, H)."""

    def forward(self, h: Array, kept: Array, scratch: Array, xp: ModuleType) -> None:
        """Overwrite the pre-activations in `h` (n, H) by activations; store what `backward` needs in `kept` (n, H).

        `scratch` (n, H) may be overwritten. A pre-activation that is not finite must leave an activation that is not
        finite, so that overflows are found.
        """
        ...

    def backward(self, dh: Array, h: Array, kept: Array, xp: ModuleType) -> None:
        """Overwrite ∂L/∂h in `dh` (n, H) by ∂L/∂a = ∂L/∂h · f'(a), with `h` and `kept` as `forward` left them.

        `kept` may be overwritten.
        """
        ...

    def initial_deviation(self, fan_in: int, fan_out: int) -> float:
        """Return the standard deviation of the initial weights of a layer with so many inputs and outputs."""
        ...


class _He:
    """He initialisation, sqrt(2 / fan-in), for activations that pass about half of what they get.

    He et al., "Delving deep into rectifiers", 2015, eq. 10; with slope c for negative ones,
    sqrt(2 / ((1 + c²) fan-in)), eq. 15.
    """

    slope = 0.0

    def initial_deviation(self, fan_in: int, fan_out: int) -> float:  # noqa: ARG002 - Glorot's needs both
        """See Activation.initial_deviation."""
        return float((2.0 / ((1 + self.slope**2) * fan_in)) ** 0.5)


class _Glorot:
    """Glorot initialisation, sqrt(2 / (fan-in + fan-out)), for activations that saturate on both sides.

    Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks", 2010, eq. 12.
    """

    def initial_deviation(self, fan_in: int, fan_out: int) -> float:
        """See Activation.initial_deviation."""
        return float((2.0 / (fan_in + fan_out)) ** 0.5)


class ReLU(_He):
    """f(a) = max(0, a)."""

    def forward(self, h: Array, kept: Array, scratch: Array, xp: ModuleType) -> None:  # noqa: ARG002 - needs no room
        """See Activation.forward; `kept` becomes f'(a): 1 where a > 0, else 0."""
        # Faster than a maximum, which looks for NaN (128 × 1024: 45 and 94 µs), and the backward pass needs the mask
        # anyway. A pre-activation of −∞ becomes NaN rather than 0, so such an overflow is found as one of +∞ is.
        xp.greater(h, 0, out=kept)
        xp.multiply(h, kept, out=h)

    def backward(self, dh: Array, h: Array, kept: Array, xp: ModuleType) -> None:  # noqa: ARG002 - others need h
        """See Activation.backward."""
        xp.multiply(dh, kept, out=dh)


class LeakyReLU(_He):
    """f(a) = a where a > 0, else 0.01a (Maas et al., "Rectifier nonlinearities improve acoustic models", 2013)."""

    slope = 0.01

    def forward(self, h: Array, kept: Array, scratch: Array, xp: ModuleType) -> None:  # noqa: ARG002 - needs no room
        """See Activation.forward; `kept` becomes f'(a): 1 where a > 0, else 0.01."""
        xp.greater(h, 0, out=kept)
        xp.maximum(kept, xp.float32(self.slope), out=kept)
        xp.multiply(h, kept, out=h)

    def backward(self, dh: Array, h: Array, kept: Array, xp: ModuleType) -> None:  # noqa: ARG002 - others need h
        """See Activation.backward."""
        xp.multiply(dh, kept, out=dh)


class ELU(_He):
    """f(a) = a where a > 0, else exp(a) − 1 (Clevert et al., "Fast and accurate deep network learning", 2016)."""

    def forward(self, h: Array, kept: Array, scratch: Array, xp: ModuleType) -> None:
        """See Activation.forward."""
        xp.multiply(h, 0, out=scratch)
        xp.minimum(h, 0, out=kept)
        xp.expm1(kept, out=kept)
        xp.maximum(h, 0, out=h)
        xp.add(h, kept, out=h)
        xp.add(h, scratch, out=h)  # adds zeros, but NaN where a is infinite

    def backward(self, dh: Array, h: Array, kept: Array, xp: ModuleType) -> None:
        """See Activation.backward; f'(a) is 1 where a > 0, else exp(a) = f(a) + 1."""
        xp.minimum(h, 0, out=kept)
        xp.add(kept, 1, out=kept)
        xp.multiply(dh, kept, out=dh)


class GELU(_He):
    """f(a) = aΦ(a), Φ the standard normal distribution (Hendrycks and Gimpel, "Gaussian error linear units", 2016).

    It is the exact form, PyTorch's default, and not the approximation by tanh. Φ comes from the complementary error
    function, as erfc(z) = exp(−z²)(c₁t + ... + c₇t⁷) with t = 1/(1 + 0.45z) for z ≥ 0: the form of Abramowitz and
    Stegun, "Handbook of mathematical functions", 1964, 7.1.26, with two more coefficients, which were fitted for the
    smallest absolute error, 1.1e-9. It uses nothing that rounds in another way in CuPy, except exp.
    """

    RATE = 0.45
    COEFFICIENTS = (
        *(0.258989633233, 0.201009805978, 0.460169286965, -0.375800530746),
        *(0.857165638327, -0.494103249392, 0.0925694166798),
    )

    def forward(self, h: Array, kept: Array, scratch: Array, xp: ModuleType) -> None:
        """See Activation.forward; `kept` becomes f'(a) = Φ(a) + aφ(a)."""
        number = xp.float32
        xp.absolute(h, out=kept)
        xp.multiply(kept, number(self.RATE / math.sqrt(2)), out=kept)
        xp.add(kept, 1, out=kept)
        xp.divide(1, kept, out=kept)  # t
        scratch.fill(0)
        for coefficient in reversed(self.COEFFICIENTS):
            xp.add(scratch, number(coefficient), out=scratch)
            xp.multiply(scratch, kept, out=scratch)
        xp.multiply(h, h, out=kept)
        xp.multiply(kept, number(-0.5), out=kept)
        xp.exp(kept, out=kept)
        xp.multiply(scratch, kept, out=scratch)  # 2Φ(−|a|)
        xp.subtract(1, scratch, out=scratch)
        xp.copysign(scratch, h, out=scratch)
        xp.multiply(scratch, number(0.5), out=scratch)
        xp.add(scratch, number(0.5), out=scratch)  # Φ(a)
        xp.multiply(kept, number(1 / math.sqrt(2 * math.pi)), out=kept)
        xp.multiply(kept, h, out=kept)
        xp.add(kept, scratch, out=kept)
        xp.multiply(h, scratch, out=h)  # NaN where a is −∞, as Φ is 0

    def backward(self, dh: Array, h: Array, kept: Array, xp: ModuleType) -> None:  # noqa: ARG002 - others need h
        """See Activation.backward."""
        xp.multiply(dh, kept, out=dh)


class Tanh(_Glorot):
    """f(a) = tanh(a)."""

    def forward(self, h: Array, kept: Array, scratch: Array, xp: ModuleType) -> None:  # noqa: ARG002 - `kept` has room
        """See Activation.forward."""
        xp.multiply(h, 0, out=kept)
        xp.tanh(h, out=h)
        xp.add(h, kept, out=h)  # adds zeros, but NaN where a is infinite

    def backward(self, dh: Array, h: Array, kept: Array, xp: ModuleType) -> None:
        """See Activation.backward; f'(a) = 1 − f(a)²."""
        xp.multiply(h, h, out=kept)
        xp.subtract(1, kept, out=kept)
        xp.multiply(dh, kept, out=dh)


class Sigmoid(_Glorot):
    """f(a) = 1 / (1 + exp(−a)), the logistic function."""

    def forward(self, h: Array, kept: Array, scratch: Array, xp: ModuleType) -> None:  # noqa: ARG002 - `kept` has room
        """See Activation.forward."""
        xp.multiply(h, 0, out=kept)
        xp.multiply(h, -1, out=h)
        xp.exp(h, out=h)  # infinite for a below −88, which becomes 0
        xp.add(h, 1, out=h)
        xp.divide(1, h, out=h)
        xp.add(h, kept, out=h)  # adds zeros, but NaN where a is infinite

    def backward(self, dh: Array, h: Array, kept: Array, xp: ModuleType) -> None:
        """See Activation.backward; f'(a) = f(a)(1 − f(a))."""
        xp.subtract(1, h, out=kept)
        xp.multiply(kept, h, out=kept)
        xp.multiply(dh, kept, out=dh)


ACTIVATIONS: dict[str, Activation] = {
    "relu": ReLU(),
    "leaky_relu": LeakyReLU(),
    "elu": ELU(),
    "gelu": GELU(),
    "tanh": Tanh(),
    "sigmoid": Sigmoid(),
}
"""The activations by name; `Net.activation` is a key."""
