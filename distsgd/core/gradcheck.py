"""The gradient check: what the backward pass computes, beside central differences of the loss, both in float64.

    ∂L/∂θ_i ≈ (L(θ + ε e_i) − L(θ − ε e_i)) / 2ε

The functions are those that train, run on float64 arrays, so an error in any of them shows: in the backward pass, in
the loss, in the division by the examples' weight and in L2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distsgd.core import optim
from distsgd.core.backprop import loss_and_gradient_sums
from distsgd.core.net import Array, Net
from distsgd.core.workspace import Workspace

EPSILONS = (1e-5, 1e-7)
"""Half the distance of the points. The second one is tried where the first disagrees: a kink, such as ReLU's at 0, may
lie between the points, and hardly ever between the nearer ones."""

TOLERANCE = 1e-6
"""Largest difference of a right gradient, relative to the largest gradient of its array."""

SPREAD = 0.1
"""Standard deviation of what is added to the initial parameters: zeros would hide an error of L2 or of biases."""


class Double:
    """NumPy with float64 in place of float32."""

    float32 = np.float64

    def __getattr__(self, name: str) -> Any:
        """Return what NumPy has under another name than `float32`."""
        return getattr(np, name)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The comparison for one array of parameters."""

    name: str
    shape: tuple[int, ...]
    checked: int
    """Elements that were compared; random ones if there are more."""
    largest: float
    """The largest gradient of the array's elements, as an absolute value."""
    difference: float
    """The largest difference between a gradient and its central difference."""
    place: tuple[int, ...]
    """The element with that difference."""

    @property
    def relative(self) -> float:
        """The largest difference, relative to the largest gradient; 0 if there is none at all."""
        return self.difference / self.largest if self.largest else float(self.difference > 0)

    @property
    def agrees(self) -> bool:
        """Whether the gradient is right."""
        return self.relative <= TOLERANCE


def check_gradients(
    net: Net, X: Array, y: Array, weights: Array | None, *, l2: float, seed: int, samples: int
) -> list[Comparison]:
    """Return the comparison for each array of a net's parameters that is not empty.

    X is (n, D), y as `losses.Target` says and the examples' weights (n,) or None. At most `samples` elements of an
    array are compared.
    """
    rng = np.random.default_rng(seed)
    flat = net.initial(seed) + rng.normal(0, SPREAD, net.size)
    weight, workspace = (len(X) if weights is None else float(weights.sum())), Workspace(net, len(X), Double())  # type: ignore[arg-type]
    X = X.astype(np.float64)

    def loss_and_sums(flat: Array) -> tuple[float, Array]:
        sums = np.empty(net.size)
        loss = loss_and_gradient_sums(net.split(flat), X, y, weights, out=net.split(sums), workspace=workspace)
        return loss / weight + optim.l2_loss(net, flat, l2, np), sums

    gradient = loss_and_sums(flat)[1] / weight
    for part, biases in optim.blocks(net):
        scratch = np.empty(part.stop - part.start)
        optim.add_decay(gradient[part], flat[part], 2 * l2, biases=biases, scratch=scratch, xp=Double())  # type: ignore[arg-type]
    found = []
    for name, bounds, shape in zip(net.shapes._fields, net.bounds, net.shapes, strict=True):
        size = bounds.stop - bounds.start
        if size:
            chosen = np.sort(rng.choice(size, min(size, samples), replace=False)) + bounds.start
            differences = [_difference(lambda flat: loss_and_sums(flat)[0], flat, i, gradient[i]) for i in chosen]
            worst = int(np.argmax(differences))
            found.append(
                Comparison(
                    name=name,
                    shape=shape,
                    checked=len(chosen),
                    largest=float(np.abs(gradient[bounds]).max()),
                    difference=differences[worst],
                    place=tuple(int(k) for k in np.unravel_index(chosen[worst] - bounds.start, shape)),
                )
            )
    return found


def _difference(loss: Callable[[Array], float], flat: Array, i: int, gradient: float) -> float:
    """Return how far the central difference of one parameter is from its gradient."""
    found = []
    for epsilon in EPSILONS:
        there, back = flat.copy(), flat.copy()
        there[i] += epsilon
        back[i] -= epsilon
        found.append(abs((loss(there) - loss(back)) / (there[i] - back[i]) - gradient))
        if found[-1] <= TOLERANCE * abs(gradient):
            break
    return float(min(found))


def all_agree(comparisons: Sequence[Comparison]) -> bool:
    """Return whether all gradients are right."""
    return all(comparison.agrees for comparison in comparisons)
