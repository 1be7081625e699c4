"""The trained classifier: parameters, classes and normalisation, its file, and its predictions."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from distsgd.core import model_file
from distsgd.core.net import Net
from distsgd.core.predictor import Predictor
from distsgd.data import Normalization
from distsgd.errors import DataError
from distsgd.system.files import write_atomically


def weights_sha256(flat: np.ndarray) -> str:
    """Return the SHA-256 of W1, b1, W2, b2, in this order, each little-endian float32 in C order."""
    return hashlib.sha256(np.ascontiguousarray(flat, "<f4").tobytes()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """A trained net that takes raw features and predicts the original class labels."""

    net: Net
    flat: np.ndarray  # (P,) float32
    classes: np.ndarray  # (C,) integers or strings
    normalization: Normalization

    @functools.cached_property
    def _predictor(self) -> Predictor:
        statistics = self.normalization
        return Predictor(
            net=self.net, flat=self.flat, classes=self.classes, shift=statistics.shift, scale=statistics.scale
        )

    def predict_proba(self, X: ArrayLike) -> np.ndarray:
        """Return class probabilities (n, C) float32 for raw features X (n, D), columns in the order of `classes`.

        DataError if X has the wrong shape or contains values that are not finite numbers.
        """
        try:
            return self._predictor.predict_proba(X)
        except ValueError as error:
            raise DataError(str(error)) from None

    def predict(self, X: ArrayLike) -> np.ndarray:
        """Return the most probable class (n,) for raw features X (n, D); DataError as `predict_proba`."""
        try:
            return self._predictor.predict(X)
        except ValueError as error:
            raise DataError(str(error)) from None

    def save(self, path: Path) -> None:
        """Write `model.npz`; see core.model_file."""
        write_atomically(path, model_file.encode(self._predictor))

    @classmethod
    def load(cls, path: str | Path) -> Classifier:
        """Read a file that `save` wrote; DataError if it is not a valid model."""
        try:
            found = model_file.read(path)
        except ValueError as error:
            raise DataError(str(error)) from None
        normalization = Normalization(found.shift, found.scale)
        return cls(net=found.net, flat=found.flat, classes=found.classes, normalization=normalization)
