"""The two-layer net: its parameters, initial weights, loss and gradients, as pure array code for NumPy or CuPy.

    h = max(0, X W1 + b1)       scores s = h W2 + b2
    L = (1/N) Σ_i (log Σ_j exp(s_ij) − s_i,y_i) + λ (Σ W1² + Σ W2²)

What is summed over examples is here; the division by N and the L2 term belong to the whole mini-batch and are
applied once, by whoever holds the sum (optim.py).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
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
    """Buffers for mini-batches of at most `count` examples, so that a step allocates nothing of their size.

    Scores are kept class by class, (C, n) in memory: reductions over the classes then run along whole rows, which
    NumPy does three times faster than along ten neighbours, and the matrix products do not care.
    """

    def __init__(self, net: Net, count: int, xp: ModuleType) -> None:
        self.xp = xp
        self._net, self._count = net, count
        self._hidden = xp.empty((3, count, net.hidden), xp.float32)
        self._scores = xp.empty(count * net.classes, xp.float32)
        self._index = xp.empty((2, count), xp.int64)
        self._index[1] = xp.arange(count)
        self._column = xp.empty((2, count), xp.float32)
        self._ones = xp.ones(count, xp.float32)
        self._views: dict[int, Views] = {}

    def views(self, n: int) -> Views:
        """Return the buffers cut to n examples; there are only a few sizes, so the cuts are kept."""
        if n not in self._views:
            flat = self._scores[: n * self._net.classes]
            self._views[n] = Views(
                h=self._hidden[0, :n],
                dh=self._hidden[1, :n],
                active=self._hidden[2, :n],
                s=flat.reshape(self._net.classes, n).T,
                s_flat=flat,
                column=self._column[0, :n],
                losses=self._column[1, :n],
                own=self._index[0, :n],
                position=self._index[1, :n],
                ones=self._ones[:n],
            )
        return self._views[n]


class Views(NamedTuple):
    """A workspace's buffers for n examples."""

    h: Array  # (n, H): hidden activations
    dh: Array  # (n, H): their gradient
    active: Array  # (n, H): 1 where they are above 0, else 0
    s: Array  # (n, C), its transpose contiguous: scores, their softmax, their gradient
    s_flat: Array  # (C n,): the same memory
    column: Array  # (n,)
    losses: Array  # (n,)
    own: Array  # (n,) int64: where in `s_flat` the score of each example's own class is
    position: Array  # (n,) int64: 0, 1, ...
    ones: Array  # (n,)


def forward(parameters: Parameters, X: Array, workspace: Workspace) -> Views:
    """Return hidden activations h (n, H) and scores s (n, C) of X (n, D) in views of the workspace."""
    xp, v = workspace.xp, workspace.views(len(X))
    xp.matmul(X, parameters.W1, out=v.h)
    xp.add(v.h, parameters.b1, out=v.h)
    # Faster than a maximum, which looks for NaN (128 × 1024: 45 and 94 µs), and the backward pass needs the mask, too.
    # An activation of −∞ becomes NaN rather than 0, so that such an overflow is found as one of +∞ is.
    xp.greater(v.h, 0, out=v.active)
    xp.multiply(v.h, v.active, out=v.h)
    xp.matmul(v.h, parameters.W2, out=v.s)
    xp.add(v.s, parameters.b2, out=v.s)
    return v


def losses_and_softmax(v: Views, y: Array, xp: ModuleType) -> Array:
    """Return each example's loss (n,) for the scores v.s and classes y (n,); v.s is overwritten by softmax(s).

    The row maximum is subtracted first, so that no exponential overflows. The loss is a view of the workspace.
    """
    s, column = v.s, v.column
    s.max(axis=1, out=column)
    xp.subtract(s, column[:, None], out=s)
    xp.multiply(y, len(y), out=v.own)
    xp.add(v.own, v.position, out=v.own)
    own_scores = v.s_flat[v.own]
    xp.exp(s, out=s)
    s.sum(axis=1, out=column)
    xp.divide(s, column[:, None], out=s)
    xp.log(column, out=v.losses)
    xp.subtract(v.losses, own_scores, out=v.losses)
    return v.losses


def loss_and_gradient_sums(
    parameters: Parameters,
    X: Array,
    y: Array,
    *,
    out: Parameters,
    workspace: Workspace,
    add_product: Callable[[Array, Array, Array], None] | None = None,
) -> float:
    """Return the sum of the examples' losses and fill `out` with the sum of their gradients, without L2.

    X is (n, D) float32, y (n,) integers in [0, C). With no examples the sums are zero. With `add_product`, which adds
    AᵀB to C for (A, B, C), the gradients are added to what is in `out`.
    """
    xp = workspace.xp
    if not len(X):
        if add_product is None:
            for gradient in out:
                gradient.fill(0)
        return 0.0
    v = forward(parameters, X, workspace)
    loss = float(losses_and_softmax(v, y, xp).sum(dtype=xp.float64))
    v.s_flat[v.own] -= 1  # v.s is now ∂(ΣL_i)/∂s
    xp.matmul(v.s, parameters.W2.T, out=v.dh)
    xp.multiply(v.dh, v.active, out=v.dh)
    # A product with ones sums columns faster than a reduction does.
    if add_product is None:
        xp.matmul(X.T, v.dh, out=out.W1)
        xp.matmul(v.ones, v.dh, out=out.b1)
        xp.matmul(v.h.T, v.s, out=out.W2)
        xp.matmul(v.ones, v.s, out=out.b2)
    else:
        add_product(X, v.dh, out.W1)
        xp.add(out.b1, xp.matmul(v.ones, v.dh), out=out.b1)
        add_product(v.h, v.s, out.W2)
        xp.add(out.b2, xp.matmul(v.ones, v.s), out=out.b2)
    return loss


def loss_and_correct(parameters: Parameters, X: Array, y: Array, *, workspace: Workspace) -> tuple[float, int]:
    """Return the sum of the examples' losses, without L2, and how many of them get their own class."""
    xp = workspace.xp
    v = forward(parameters, X, workspace)
    correct = int(xp.count_nonzero(xp.argmax(v.s, axis=1) == y))
    return float(losses_and_softmax(v, y, xp).sum(dtype=xp.float64)), correct


def softmax_scores(parameters: Parameters, X: np.ndarray) -> np.ndarray:
    """Return class probabilities (n, C) float32 for normalised X (n, D) float32; for prediction, on the CPU."""
    s: np.ndarray = np.maximum(X @ parameters.W1 + parameters.b1, 0) @ parameters.W2 + parameters.b2
    s -= s.max(axis=1, keepdims=True)
    np.exp(s, out=s)
    s /= s.sum(axis=1, keepdims=True)
    return s
