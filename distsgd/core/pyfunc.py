"""A trained model as MLflow loads it: the entry point of the package that is copied into every logged model.

It runs where neither Ray nor distsgd is installed, and needs NumPy alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .model_file import read
from .predictor import Predictor

METHOD = "predict_method"
"""The parameter of a prediction that names what is computed."""

METHODS = ("predict", "predict_proba")
"""What it may name; the first is the default."""


class PyfuncModel:
    """The object that MLflow calls to predict."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> np.ndarray:
        """Return the most probable class (n,) for a frame or raw features (n, D), as `Inputs.matrix` takes them.

        With the parameter `predict_method` "predict_proba": the probabilities (n, C) of the classes, in their order.
        ValueError if the input does not fit, or there is no such method.
        """
        method = (params or {}).get(METHOD, METHODS[0])
        if method not in METHODS:
            raise ValueError(f"{METHOD} is {str(method)[:40]!r}; expected {' or '.join(map(repr, METHODS))}")
        found: np.ndarray = getattr(self._predictor, method)(model_input)
        return found


def _load_pyfunc(path: str) -> PyfuncModel:
    """Return the model whose `model.npz` is at `path`; the name is MLflow's."""
    return PyfuncModel(read(path))
