"""The trained classifier: parameters, classes and normalisation, its file, and its predictions."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distsgd.core import model_file
from distsgd.core.inputs import Inputs
from distsgd.core.net import Net
from distsgd.core.predictor import Predictor
from distsgd.data import Normalization
from distsgd.errors import DataError, counted
from distsgd.system.files import write_atomically

MODEL_FILE = "model.npz"
"""Name of the file in a run directory."""

SHOWN = 5
"""Columns and classes that `repr` names."""


def weights_sha256(flat: np.ndarray) -> str:
    """Return the SHA-256 of W1, b1, W2, b2, in this order, each little-endian float32 in C order."""
    return hashlib.sha256(np.ascontiguousarray(flat, "<f4").tobytes()).hexdigest()


@dataclass(frozen=True, kw_only=True, repr=False)
class Classifier:
    """A trained net that takes raw features and predicts the original class labels.

    A frame (pandas, polars, pyarrow), a mapping of arrays or a structured array is read by the names of its columns,
    whatever their order; an array or nested lists (n, D) by the order of `feature_names`.
    """

    net: Net
    flat: np.ndarray  # (P,) float32
    classes: np.ndarray  # (C,) classes, integers or strings; or the names of labels or numbers
    normalization: Normalization
    inputs: Inputs | None = None
    """The columns of the training data that the features are made of; None in a model of distsgd 0.1.0, which takes all
    by position."""

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        """Names of the D features, in order: `age`, `color=red`, `pixels[3]`; None in a model of distsgd 0.1.0."""
        return None if self.inputs is None else self.inputs.feature_names

    def __repr__(self) -> str:
        """Return the model's inputs and outputs in a line."""
        names = "" if self.inputs is None else f" ({_some([column.name for column in self.inputs.columns])})"
        outputs = {"class": "classes", "labels": "labels", "numbers": "numbers"}[self.predictor.loss.target]
        classes = _some([str(label) for label in self.classes])
        return (
            f"<Classifier: {counted(self.net.features, 'feature')}{names}, {len(self.classes)} {outputs} ({classes})>"
        )

    @functools.cached_property
    def predictor(self) -> Predictor:
        """The same model in pure array code."""
        statistics = self.normalization
        return Predictor(
            net=self.net,
            flat=self.flat,
            classes=self.classes,
            shift=statistics.shift,
            scale=statistics.scale,
            inputs=self.inputs,
        )

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return probabilities (n, C) float32 for a frame or features X (n, D), in the order of `classes`.

        A model of model.loss=hinge or squared has none, and raises DataError.

        Columns that the model was not trained on are ignored with a warning. DataError if X has the wrong shape, lacks
        a column, or has a value that is missing, not finite or of another type.
        """
        try:
            return self.predictor.predict_proba(X)
        except ValueError as error:
            raise DataError(str(error)) from None

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable class (n,) for a frame or features X (n, D); DataError as `predict_proba`.

        With model.loss=logistic labels of 0 and 1 (n, C), with squared numbers (n, C), and (n,) if there is only one.
        """
        try:
            return self.predictor.predict(X)
        except ValueError as error:
            raise DataError(str(error)) from None

    def decision_function(self, X: Any) -> np.ndarray:
        """Return the scores (n, C) float32 for a frame or features X (n, D); DataError as `predict_proba`."""
        try:
            return self.predictor.decision_function(X)
        except ValueError as error:
            raise DataError(str(error)) from None

    def save(self, path: Path) -> None:
        """Write `model.npz`; see core.model_file."""
        write_atomically(path, model_file.encode(self.predictor))

    @classmethod
    def load(cls, path: str | Path) -> Classifier:
        """Read a file that `save` wrote, or that of a run's directory; DataError if it is not a valid model."""
        file = Path(path)
        if file.is_dir():
            file /= MODEL_FILE
            if not file.exists():
                raise DataError(
                    f"the folder {str(path)!r} has no {MODEL_FILE}; expected a model, or the directory of a run, which "
                    "has one when it has ended: if this is such a directory, use --resume"
                )
        try:
            found = model_file.read(file)
        except ValueError as error:
            raise DataError(str(error)) from None
        return cls(
            net=found.net,
            flat=found.flat,
            classes=found.classes,
            normalization=Normalization(found.shift, found.scale),
            inputs=found.inputs,
        )


def _some(names: list[str]) -> str:
    """Return the first few names, each cut to a readable length."""
    shown = [name if len(name) <= 20 else f"{name[:19]}…" for name in names[:SHOWN]]
    return ", ".join([*shown, "…"] if len(names) > SHOWN else shown)
