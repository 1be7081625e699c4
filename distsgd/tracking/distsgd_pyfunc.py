"""Prediction with nothing but NumPy: copied into every logged model, where neither Ray nor distsgd is to be expected.

It computes what classifier.Classifier.predict does.
"""

from __future__ import annotations

from typing import Any

import numpy as np


class PortableClassifier:
    """A trained net, read from `model.npz`."""

    def __init__(self, path: str) -> None:
        with np.load(path, allow_pickle=False) as file:
            self._arrays = dict(file)

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> np.ndarray:  # noqa: ARG002 - MLflow's
        """Return the most probable class (n,) for raw features (n, D): an array, or a data frame with D columns."""
        a = self._arrays
        X = np.asarray(model_input)
        if X.ndim != 2 or X.shape[1] != len(a["shift"]):
            raise ValueError(f"features have the shape {X.shape}; this model takes (n, {len(a['shift'])})")
        if X.dtype == object:  # a data frame with columns of truth values beside columns of numbers
            X = X.astype(np.float64)
        X = (np.subtract(X, a["shift"], dtype=np.float64) * a["scale"]).astype(np.float32)
        scores = np.maximum(X @ a["W1"] + a["b1"], 0) @ a["W2"] + a["b2"]
        predicted: np.ndarray = a["classes"][scores.argmax(axis=1)]
        return predicted


def _load_pyfunc(path: str) -> PortableClassifier:
    """Return the model whose `model.npz` is at `path`; the name is MLflow's."""
    return PortableClassifier(path)
