"""Training in float64, written from the formulas and independently of the package: every rule, activation and loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

Array = np.ndarray
Layers = tuple[Array, Array, Array, Array]
"""W1 (D, H), b1 (H,), W2 (H, C) and b2 (C,) in float64; without a hidden layer W1 and b1 are empty and W2 is (D, C)."""

_erf = np.vectorize(math.erf, otypes=[float])


def _normal(a: Array) -> Array:
    return (1 + _erf(a / math.sqrt(2))) / 2


def _sigmoid(a: Array) -> Array:
    return 1 / (1 + np.exp(-a))


ACTIVATIONS: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "relu": (lambda a: np.where(a > 0, a, 0), lambda a: np.where(a > 0, 1, 0)),
    "leaky_relu": (lambda a: np.where(a > 0, a, a / 100), lambda a: np.where(a > 0, 1, 0.01)),
    "elu": (lambda a: np.where(a > 0, a, np.exp(a) - 1), lambda a: np.where(a > 0, 1, np.exp(a))),
    "gelu": (
        lambda a: a * _normal(a),
        lambda a: _normal(a) + a * np.exp(-(a**2) / 2) / math.sqrt(2 * math.pi),
    ),
    "tanh": (np.tanh, lambda a: 1 / np.cosh(a) ** 2),
    "sigmoid": (_sigmoid, lambda a: _sigmoid(a) * _sigmoid(-a)),
}
"""f and f' by name."""


def score_gradient(loss: str, s: Array, y: Array, smoothing: float = 0.0) -> Array:
    """Return ∂L_i/∂s (n, C) for each example."""
    if loss == "squared":
        return s - y
    if loss == "logistic":
        return _sigmoid(s) - y
    own = np.eye(s.shape[1])[y]
    if loss == "softmax":
        p = np.exp(s - s.max(axis=1, keepdims=True))
        return p / p.sum(axis=1, keepdims=True) - (1 - smoothing) * own - smoothing / s.shape[1]
    violated = ((s - (s * own).sum(axis=1, keepdims=True) + 1 > 0) & (own == 0)).astype(float)
    return violated - own * violated.sum(axis=1, keepdims=True)


def gradients(layers: Layers, X: Array, y: Array, *, activation: str, loss: str, smoothing: float, l2: float) -> Layers:
    """Return the gradients of the mean loss with L2 over the examples."""
    W1, b1, W2, b2 = layers
    f, derivative = ACTIVATIONS[activation]
    a = X @ W1 + b1
    h = f(a) if b1.size else X
    ds = score_gradient(loss, h @ W2 + b2, y, smoothing) / len(X)
    da = ds @ W2.T * derivative(a) if b1.size else np.zeros_like(a)
    return X.T @ da + 2 * l2 * W1, da.sum(axis=0), h.T @ ds + 2 * l2 * W2, ds.sum(axis=0)


def updates(rule: str, layers: Layers, gradient: Callable[[Layers], Layers], lr: float) -> Iterator[Layers]:
    """Yield the layers after each step; settings are the defaults, and momentum is 0.9."""
    v, s = ([np.zeros_like(part) for part in layers] for _ in range(2))
    t = 0
    while True:
        t += 1
        new = []
        for i, (w, g) in enumerate(zip(layers, gradient(layers), strict=True)):
            if rule in ("momentum", "nesterov"):
                v[i] = 0.9 * v[i] + g
                step = lr * (g + 0.9 * v[i] if rule == "nesterov" else v[i])
            elif rule == "adagrad":
                s[i] = s[i] + g**2
                step = lr * g / (np.sqrt(s[i]) + 1e-10)
            elif rule == "rmsprop":
                s[i] = 0.99 * s[i] + 0.01 * g**2
                step = lr * g / (np.sqrt(s[i]) + 1e-8)
            elif rule in ("adam", "adamw"):
                v[i], s[i] = 0.9 * v[i] + 0.1 * g, 0.999 * s[i] + 0.001 * g**2
                step = lr * (v[i] / (1 - 0.9**t)) / (np.sqrt(s[i] / (1 - 0.999**t)) + 1e-8)
                if rule == "adamw" and w.ndim == 2:
                    step = step + lr * 0.01 * w
            else:
                step = lr * g
            new.append(w - step)
        layers = (new[0], new[1], new[2], new[3])
        yield layers
