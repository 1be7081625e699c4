"""The net of one or two layers: its parameters' shapes, their positions in one flat vector, and their initial values.

    h = f(X W1 + b1)       scores s = h W2 + b2
    L = (1/N) Σ_i L_i(s_i, y_i) + λ (Σ W1² + Σ W2²)

Without a hidden layer, H = 0, the scores are s = X W2 + b2, which is softmax regression with the softmax loss: W2 and
b2 belong to the output layer of every net, and W1 (D, 0) and b1 (0,) are empty.

The activation f is in activations.py, the loss L_i in losses.py, the forward and the backward pass in backprop.py.
This file is copied into every model that is logged to MLflow, so it needs NumPy alone.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .activations import ACTIVATIONS

Array = Any
"""A NumPy or a CuPy array."""


class Parameters(NamedTuple):
    """Views of one flat vector (P,), in this order, each in C order; gradients have the same shape."""

    W1: Array  # (D, H)
    b1: Array  # (H,)
    W2: Array  # (H, C); (D, C) if H is 0
    b2: Array  # (C,)


@dataclass(frozen=True)
class Net:
    """The net's shape, D features, H hidden units and C outputs (classes, labels or numbers), and its parts."""

    features: int
    hidden: int
    """0 for a net without a hidden layer, which uses no activation."""
    classes: int
    activation: str = "relu"
    """A key of `activations.ACTIVATIONS`."""
    loss: str = "softmax"
    """A key of `losses.LOSSES`."""
    label_smoothing: float = 0.0
    """The ε of `losses.SmoothedSoftmaxCrossEntropy`; 0 for any other loss."""
    arithmetic: str = "fast"
    """How training computes: a key of `reduction.SUMMATIONS`."""

    @functools.cached_property
    def shapes(self) -> Parameters:
        """The shapes of W1, b1, W2 and b2."""
        D, H, C = self.features, self.hidden, self.classes
        return Parameters((D, H), (H,), (H or D, C), (C,))

    @functools.cached_property
    def bounds(self) -> Parameters:
        """The slices of the flat vector that W1, b1, W2 and b2 take up."""
        ends = np.cumsum([int(np.prod(shape)) for shape in self.shapes]).tolist()
        return Parameters(*(slice(start, end) for start, end in zip([0, *ends], ends, strict=False)))

    @property
    def size(self) -> int:
        """The number of parameters, P."""
        return int(self.bounds.b2.stop)

    @property
    def sums_dtype(self) -> np.dtype[Any]:
        """The type of the sums of gradients: float32, or float64 where these have to be exact."""
        return np.dtype(np.float64 if self.arithmetic == "portable" else np.float32)

    @property
    def widths(self) -> str:
        """The widths of its layers in words: `64-32-10`, and `64-10` without a hidden layer."""
        return "-".join(str(width) for width in (self.features, self.hidden, self.classes) if width)

    def split(self, flat: Array) -> Parameters:
        """Return views of the flat vector (P,) as W1, b1, W2 and b2."""
        return Parameters(*(flat[part].reshape(shape) for part, shape in zip(self.bounds, self.shapes, strict=True)))

    def initial(self, seed: int, scale: float | None = None) -> np.ndarray:
        """Return initial parameters, flat (P,) float32: normal weights, zero biases.

        Without `scale` the activation determines the standard deviation of a layer, and a net without a hidden layer,
        whose loss has a single minimum, begins with zeros. The generator is Philox, keyed by the seed and the layer, so
        the weights do not depend on earlier draws.
        """
        flat = np.zeros(self.size, np.float32)
        if not self.hidden and scale is None:
            return flat
        parameters, activation = self.split(flat), ACTIVATIONS[self.activation]
        for layer, weights in enumerate((parameters.W1, parameters.W2)):
            deviation = scale if scale is not None else activation.initial_deviation(*weights.shape)
            draws = np.random.Generator(np.random.Philox(key=[seed, layer])).standard_normal(weights.shape)
            weights[...] = draws * deviation
        return flat
