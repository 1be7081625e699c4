"""A trained model as MLflow loads it: the entry point of the package that is copied into every logged model.

It runs where neither Ray nor distsgd is installed, and needs NumPy alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .model_file import read
from .predictor import Predictor


class PyfuncModel:
    """The object that MLflow calls to predict."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> np.ndarray:  # noqa: ARG002 - MLflow's
        """Return the most probable class (n,) for raw features (n, D): an array, or a data frame with D columns."""
        return self._predictor.predict(model_input)


def _load_pyfunc(path: str) -> PyfuncModel:
    """Return the model whose `model.npz` is at `path`; the name is MLflow's."""
    return PyfuncModel(read(path))
