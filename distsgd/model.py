"""The two-layer net: its parameters, initial weights, loss and gradients, as pure array code for NumPy or CuPy.

    h = max(0, X W1 + b1)       scores s = h W2 + b2
    L = (1/N) Σ_i (log Σ_j exp(s_ij) − s_i,y_i) + λ (Σ W1² + Σ W2²)

What is summed over examples is here; the division by N and the L2 term belong to the whole mini-batch and are
applied once, by whoever holds the sum (optim.py).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

Array = Any
"""A NumPy or a CuPy array."""


class Parameters(NamedTuple):
    """Views of one flat vector (P,), in this order, each in C order; gradients have the same shape."""

    W1: Array  # (D, H)
    b1: Array  # (H,)
    W2: Array  # (H, C)
    b2: Array  # (C,)


@dataclass(frozen=True)
class Net:
    """The net's shape: D features, H hidden units, C classes."""

    features: int
    hidden: int
    classes: int

    @functools.cached_property
    def shapes(self) -> Parameters:
        """The shapes of W1, b1, W2 and b2."""
        D, H, C = self.features, self.hidden, self.classes
        return Parameters((D, H), (H,), (H, C), (C,))

    @functools.cached_property
    def bounds(self) -> Parameters:
        """The slices of the flat vector that W1, b1, W2 and b2 take up."""
        ends = np.cumsum([int(np.prod(shape)) for shape in self.shapes]).tolist()
        return Parameters(*(slice(start, end) for start, end in zip([0, *ends], ends, strict=False)))

    @property
    def size(self) -> int:
        """The number of parameters, P."""
        return int(self.bounds.b2.stop)

    def split(self, flat: Array) -> Parameters:
        """Return views of the flat vector (P,) as W1, b1, W2 and b2."""
        return Parameters(*(flat[part].reshape(shape) for part, shape in zip(self.bounds, self.shapes, strict=True)))

    def initial(self, seed: int, scale: float | None = None) -> np.ndarray:
        """Return initial parameters, flat (P,) float32: normal weights, zero biases.

        Without `scale` the standard deviation of a layer is sqrt(2 / fan-in) (He et al., "Delving deep into
        rectifiers", 2015). The generator is Philox, keyed by the seed and the layer, so a weight depends on nothing
        that was drawn before by others.
        """
        flat = np.zeros(self.size, np.float32)
        parameters = self.split(flat)
        for layer, weights in enumerate((parameters.W1, parameters.W2)):
            deviation = scale if scale is not None else (2.0 / weights.shape[0]) ** 0.5
            draws = np.random.Generator(np.random.Philox(key=[seed, layer])).standard_normal(weights.shape)
            weights[...] = draws * deviation
        return flat


class Workspace:
    """Buffers for mini-batches of at most `count` examples, so that a step allocates nothing of their size."""

    def __init__(self, net: Net, count: int, xp: ModuleType) -> None:
        self.xp = xp
        self.hidden = xp.empty((count, net.hidden), xp.float32)
        self.hidden_gradient = xp.empty((count, net.hidden), xp.float32)
        self.scores = xp.empty((count, net.classes), xp.float32)
        self.column = xp.empty((count, 1), xp.float32)
        self.index = xp.arange(count)


def forward(parameters: Parameters, X: Array, workspace: Workspace) -> tuple[Array, Array]:
    """Return hidden activations (n, H) and scores (n, C) of X (n, D) as views of the workspace."""
    xp, n = workspace.xp, len(X)
    h, s = workspace.hidden[:n], workspace.scores[:n]
    xp.matmul(X, parameters.W1, out=h)
    h += parameters.b1
    xp.maximum(h, 0, out=h)
    xp.matmul(h, parameters.W2, out=s)
    s += parameters.b2
    return h, s


def losses_and_softmax(s: Array, y: Array, workspace: Workspace) -> Array:
    """Return each example's loss (n,) for scores s (n, C) and classes y (n,); s is overwritten by softmax(s).

    The row maximum is subtracted first, so that no exponential overflows.
    """
    xp, n = workspace.xp, len(s)
    column = workspace.column[:n]
    xp.max(s, axis=1, keepdims=True, out=column)
    s -= column
    losses = -s[workspace.index[:n], y]
    xp.exp(s, out=s)
    xp.sum(s, axis=1, keepdims=True, out=column)
    s /= column
    losses += xp.log(column[:, 0])
    return losses


def loss_and_gradient_sums(
    parameters: Parameters, X: Array, y: Array, *, out: Parameters, workspace: Workspace
) -> float:
    """Return the sum of the examples' losses and fill `out` with the sum of their gradients, without L2.

    X is (n, D) float32, y (n,) integers in [0, C). With no examples the sums are zero.
    """
    xp = workspace.xp
    if not len(X):
        for gradient in out:
            gradient.fill(0)
        return 0.0
    h, s = forward(parameters, X, workspace)
    loss = float(xp.sum(losses_and_softmax(s, y, workspace), dtype=xp.float64))
    s[workspace.index[: len(s)], y] -= 1  # s is now ∂(ΣL_i)/∂s
    xp.matmul(h.T, s, out=out.W2)
    xp.sum(s, axis=0, out=out.b2)
    dh = workspace.hidden_gradient[: len(s)]
    xp.matmul(s, parameters.W2.T, out=dh)
    dh *= h > 0
    xp.matmul(X.T, dh, out=out.W1)
    xp.sum(dh, axis=0, out=out.b1)
    return loss


def loss_and_correct(parameters: Parameters, X: Array, y: Array, *, workspace: Workspace) -> tuple[float, int]:
    """Return the sum of the examples' losses, without L2, and how many of them get their own class."""
    xp = workspace.xp
    _, s = forward(parameters, X, workspace)
    correct = int(xp.count_nonzero(xp.argmax(s, axis=1) == y))
    return float(xp.sum(losses_and_softmax(s, y, workspace), dtype=xp.float64)), correct


def softmax_scores(parameters: Parameters, X: np.ndarray) -> np.ndarray:
    """Return class probabilities (n, C) float32 for normalised X (n, D) float32; for prediction, on the CPU."""
    s: np.ndarray = np.maximum(X @ parameters.W1 + parameters.b1, 0) @ parameters.W2 + parameters.b2
    s -= s.max(axis=1, keepdims=True)
    np.exp(s, out=s)
    s /= s.sum(axis=1, keepdims=True)
    return s
