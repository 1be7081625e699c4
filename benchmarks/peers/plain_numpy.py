"""The two-layer net in straightforward NumPy: every intermediate result is a new array."""

from __future__ import annotations

import numpy as np

from benchmarks.shapes import Shape

Parameters = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""W1 (D, H), b1 (H,), W2 (H, C), b2 (C,), float32."""


def initial_parameters(shape: Shape) -> Parameters:
    """Return He-normal weights and zero biases."""
    D, H, C = shape.features, shape.hidden, shape.classes
    rng = np.random.default_rng(0)
    W1 = rng.standard_normal((D, H), np.float32) * np.float32((2 / D) ** 0.5)
    W2 = rng.standard_normal((H, C), np.float32) * np.float32((2 / H) ** 0.5)
    return W1, np.zeros(H, np.float32), W2, np.zeros(C, np.float32)


def gather(X: np.ndarray, y: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows `index` as float32, uint8 divided by 255, and their classes."""
    rows = X[index]
    return (rows if rows.dtype == np.float32 else rows.astype(np.float32) / np.float32(255)), y[index]


def loss_and_gradients(parameters: Parameters, X: np.ndarray, y: np.ndarray) -> tuple[float, Parameters]:
    """Return the mean loss of X (n, D) and y (n,), and its gradients, without L2."""
    W1, b1, W2, b2 = parameters
    n = len(X)
    examples = np.arange(n)
    h = np.maximum(X @ W1 + b1, 0)
    scores = h @ W2 + b2
    scores -= scores.max(axis=1, keepdims=True)
    exponentials = np.exp(scores)
    sums = exponentials.sum(axis=1, keepdims=True)
    loss = float((np.log(sums[:, 0]) - scores[examples, y]).mean())
    ds = exponentials / sums
    ds[examples, y] -= 1
    ds /= n
    dh = ds @ W2.T
    dh[h <= 0] = 0
    return loss, (X.T @ dh, dh.sum(axis=0), h.T @ ds, ds.sum(axis=0))
