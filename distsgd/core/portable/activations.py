"""Activations of the hidden layer in float64 from basic operations; the formulas are those of core/activations.py."""

from __future__ import annotations

from types import ModuleType
from typing import Any, Protocol

from distsgd.core.portable.elementary import Elementary

Array = Any
"""A NumPy or a CuPy array."""


class PortableActivation(Protocol):
    """h = f(a), elementwise, of pre-activations a (n, H); arrays are contiguous float64, and a is finite."""

    largest: float | None
    """A bound of |f(a)|; None if it is |a|."""
    steepest: float
    """A bound of |f'(a)|."""
    negative: bool
    """Whether f(a) can be below 0."""

    def forward(self, h: Array, kept: Array, functions: Elementary, xp: ModuleType) -> None:
        """Overwrite the pre-activations in `h` by activations; store what `backward` needs in `kept`."""
        ...

    def backward(self, dh: Array, h: Array, kept: Array, xp: ModuleType) -> None:
        """Overwrite ∂L/∂h in `dh` by ∂L/∂a, with `h` and `kept` as `forward` left them; `kept` may be overwritten."""
        ...


class ReLU:
    """f(a) = max(0, a)."""

    largest: float | None = None
    steepest = 1.0
    negative = False

    def forward(self, h: Array, kept: Array, functions: Elementary, xp: ModuleType) -> None:  # noqa: ARG002
        """See PortableActivation.forward."""
        xp.maximum(h, 0.0, out=h)

    def backward(self, dh: Array, h: Array, kept: Array, xp: ModuleType) -> None:
        """See PortableActivation.backward."""
        xp.greater(h, 0.0, out=kept)  # 0.8 ns a number, where a sign takes 1.2
        xp.multiply(dh, kept, out=dh)


class LeakyReLU:
    """f(a) = a where a > 0, else 0.01a."""

    largest: float | None = None
    steepest = 1.0
    negative = True
    slope = 0.01

    def forward(self, h: Array, kept: Array, functions: Elementary, xp: ModuleType) -> None:  # noqa: ARG002
        """See PortableActivation.forward."""
        xp.multiply(h, self.slope, out=kept)
        xp.maximum(h, kept, out=h)

    def backward(self, dh: Array, h: Array, kept: Array, xp: ModuleType) -> None:
        """See PortableActivation.backward."""
        xp.greater(h, 0.0, out=kept)
        xp.maximum(kept, self.slope, out=kept)
        xp.multiply(dh, kept, out=dh)


class ELU:
    """f(a) = a where a > 0, else exp(a) − 1."""

    largest: float | None = None
    steepest = 1.0
    negative = True

    def forward(self, h: Array, kept: Array, functions: Elementary, xp: ModuleType) -> None:
        """See PortableActivation.forward."""
        xp.minimum(h, 0.0, out=kept)
        functions.expm1(kept)
        xp.maximum(h, 0.0, out=h)
        xp.add(h, kept, out=h)

    def backward(self, dh: Array, h: Array, kept: Array, xp: ModuleType) -> None:
        """See PortableActivation.backward; f'(a) is 1 where a > 0, else f(a) + 1."""
        xp.minimum(h, 0.0, out=kept)
        xp.add(kept, 1.0, out=kept)
        xp.multiply(dh, kept, out=dh)


class GELU:
    """f(a) = aΦ(a), Φ the standard normal distribution, and f'(a) = Φ(a) + aφ(a)."""

    largest: float | None = None
    steepest = 1.2  # 1.129 at a = √2
    negative = True

    def forward(self, h: Array, kept: Array, functions: Elementary, xp: ModuleType) -> None:  # noqa: ARG002
        """See PortableActivation.forward; `kept` becomes Φ(a), and f'(a) is left in it at the end."""
        functions.gelu(h, kept)

    def backward(self, dh: Array, h: Array, kept: Array, xp: ModuleType) -> None:  # noqa: ARG002
        """See PortableActivation.backward."""
        xp.multiply(dh, kept, out=dh)


class Tanh:
    """f(a) = tanh(a)."""

    largest: float | None = 1.0
    steepest = 1.0
    negative = True

    def forward(self, h: Array, kept: Array, functions: Elementary, xp: ModuleType) -> None:  # noqa: ARG002
        """See PortableActivation.forward."""
        functions.tanh(h)

    def backward(self, dh: Array, h: Array, kept: Array, xp: ModuleType) -> None:
        """See PortableActivation.backward; f'(a) = 1 − f(a)²."""
        xp.multiply(h, h, out=kept)
        xp.subtract(1.0, kept, out=kept)
        xp.multiply(dh, kept, out=dh)


class Sigmoid:
    """f(a) = 1 / (1 + exp(−a))."""

    largest: float | None = 1.0
    steepest = 0.25
    negative = False

    def forward(self, h: Array, kept: Array, functions: Elementary, xp: ModuleType) -> None:  # noqa: ARG002
        """See PortableActivation.forward."""
        functions.sigmoid(h)

    def backward(self, dh: Array, h: Array, kept: Array, xp: ModuleType) -> None:
        """See PortableActivation.backward; f'(a) = f(a)(1 − f(a))."""
        xp.subtract(1.0, h, out=kept)
        xp.multiply(kept, h, out=kept)
        xp.multiply(dh, kept, out=dh)


ACTIVATIONS: dict[str, PortableActivation] = {
    "relu": ReLU(),
    "leaky_relu": LeakyReLU(),
    "elu": ELU(),
    "gelu": GELU(),
    "tanh": Tanh(),
    "sigmoid": Sigmoid(),
}
"""By the names of core/activations.py."""
