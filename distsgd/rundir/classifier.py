"""The trained classifier: parameters, classes and normalisation, its file, and its predictions."""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from distsgd.core.net import Net, softmax_scores
from distsgd.data import Normalization
from distsgd.errors import DataError
from distsgd.system.files import write_atomically

NOT_A_MODEL = (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What NumPy and zipfile raise for files that are damaged or something else."""


def weights_sha256(flat: np.ndarray) -> str:
    """Return the SHA-256 of W1, b1, W2, b2, in this order, each little-endian float32 in C order."""
    return hashlib.sha256(np.ascontiguousarray(flat, "<f4").tobytes()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """A trained net that takes raw features and gives the classes as they were in the data."""

    net: Net
    flat: np.ndarray  # (P,) float32
    classes: np.ndarray  # (C,) integers or strings
    normalization: Normalization

    def predict_proba(self, X: ArrayLike) -> np.ndarray:
        """Return class probabilities (n, C) float32 for raw features X (n, D), columns in the order of `classes`."""
        raw = np.asarray(X)
        if raw.ndim != 2 or raw.shape[1] != self.net.features:
            raise DataError(f"features have the shape {raw.shape}; this model takes (n, {self.net.features})")
        normalised = self.normalization.apply(raw)
        finite = np.isfinite(normalised)
        if not finite.all():
            row, column = np.argwhere(~finite)[0]
            raise DataError(
                f"feature {column} of row {row}, both counted from 0, is {raw[row, column]}; a prediction needs finite "
                "numbers that float32 holds after normalisation"
            )
        return softmax_scores(self.net.split(self.flat), normalised)

    def predict(self, X: ArrayLike) -> np.ndarray:
        """Return the most probable class (n,) for raw features X (n, D)."""
        predicted: np.ndarray = self.classes[self.predict_proba(X).argmax(axis=1)]
        return predicted

    def save(self, path: Path) -> None:
        """Write `model.npz`: W1 b1 W2 b2 float32, classes, shift and scale; readable without pickle."""
        buffer = io.BytesIO()
        np.savez(
            buffer,
            **self.net.split(self.flat)._asdict(),
            classes=self.classes,
            shift=self.normalization.shift,
            scale=self.normalization.scale,
        )
        write_atomically(path, buffer.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> Classifier:
        """Read what `save` wrote; DataError if the file is not such a model."""
        try:
            with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
                arrays: dict[str, Any] = dict(file)
            D, H = arrays["W1"].shape
            net = Net(D, H, len(arrays["classes"]))
            if any(arrays[name].shape != shape for name, shape in net.shapes._asdict().items()):
                raise ValueError("its arrays do not fit together")
            flat = np.concatenate([arrays[name].astype(np.float32).ravel() for name in net.shapes._fields])
            normalization = Normalization(arrays["shift"], arrays["scale"])
            if any(v.shape != (D,) or v.dtype.kind != "f" for v in (normalization.shift, normalization.scale)):
                raise ValueError("its normalisation does not fit its features")
            return cls(net=net, flat=flat, classes=arrays["classes"], normalization=normalization)
        except FileNotFoundError:
            raise DataError(f"the model {str(path)!r} does not exist") from None
        except NOT_A_MODEL as error:
            raise DataError(f"{str(path)!r} is not a model that distsgd wrote: {error}") from None
