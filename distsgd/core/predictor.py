"""Prediction: computes classes and probabilities from raw features, on the CPU.

The trained classifier, the model logged to MLflow and the predict commands all use this module; validation uses the
same forward pass. This file is copied into every model that is logged to MLflow, so it needs NumPy alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .backprop import forward
from .encoding import matrix_of
from .inputs import Inputs
from .losses import LOSSES, Loss
from .net import Net
from .scaling import scaled
from .views import Views
from .workspace import Workspace

BLOCK = 512
"""Rows that go through the net together; fixed, so that a row's scores do not depend on how many rows there are."""


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """A trained net with its inputs, its normalisation and its classes."""

    net: Net
    flat: np.ndarray  # (P,) float32
    classes: np.ndarray  # (C,) what the outputs stand for: classes, integers or strings; or names of labels or numbers
    shift: np.ndarray  # (D,) float64
    scale: np.ndarray  # (D,) float64
    inputs: Inputs | None = None
    """The columns that the features are made of; None in models of distsgd 0.1.0, whose features have no names."""

    @property
    def loss(self) -> Loss:
        """What the net was trained with; it says what is predicted, and whether there are probabilities."""
        return LOSSES[self.net.loss]

    def predict(self, X: Any) -> np.ndarray:
        """Return what the net predicts for a frame or features X (n, D), as `Inputs.matrix` takes them.

        The class (n,) of largest score; or labels of 0 and 1 (n, C) int64, or numbers (n, C) float32, and (n,) if there
        is only one. ValueError if X does not fit.
        """
        raw = self._features(X)
        found = self._empty(len(raw))
        for rows, v, workspace in self._scores(raw):
            found[rows] = workspace.loss.predicted(v, np)
        return self._as_predicted(found)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return probabilities (n, C) float32 of the classes or labels, in their order, for X as `predict` takes it.

        ValueError if X does not fit, or the loss has no probabilities.
        """
        if not self.loss.has_probabilities:
            what = "numbers" if self.loss.target == "numbers" else "classes by their scores (decision_function)"
            raise ValueError(
                f"this model was trained with model.loss={self.net.loss}: it predicts {what}, and no probabilities"
            )
        return self.predict_both(X)[1]

    def predict_both(self, X: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return what is predicted, as `predict` does, and what it follows from: probabilities, or else scores (n, C).

        Both come from one pass. There are scores if the loss has no probabilities, as with hinge and squared error.
        """
        raw = self._features(X)
        predicted, found = self._empty(len(raw)), np.empty((len(raw), self.net.classes), np.float32)
        for rows, v, workspace in self._scores(raw):
            predicted[rows] = workspace.loss.predicted(v, np)
            if workspace.loss.has_probabilities:
                workspace.loss.probabilities(v, np)
            found[rows] = v.s
        return self._as_predicted(predicted), found

    def decision_function(self, X: Any) -> np.ndarray:
        """Return the scores (n, C) float32 for X as `predict` takes it, in the order of `classes`."""
        raw = self._features(X)
        found = np.empty((len(raw), self.net.classes), np.float32)
        for rows, v, _ in self._scores(raw):
            found[rows] = v.s
        return found

    def _empty(self, count: int) -> np.ndarray:
        """Return an array for what the loss predicts of so many rows."""
        if self.loss.target == "class":
            return np.empty(count, np.int64)
        return np.empty((count, self.net.classes), np.float32 if self.loss.target == "numbers" else np.int64)

    def _as_predicted(self, found: np.ndarray) -> np.ndarray:
        if self.loss.target == "class":
            labels: np.ndarray = self.classes[found]
            return labels
        return found[:, 0] if found.shape[1] == 1 else found

    def _features(self, X: Any) -> np.ndarray:
        """Return features (n, D) as real numbers."""
        return matrix_of(X, self.net.features) if self.inputs is None else self.inputs.matrix(X)

    def _scores(self, raw: np.ndarray) -> Iterator[tuple[slice, Views, Workspace]]:
        """Yield consecutive rows and their scores, in a workspace of this call, block by block."""
        workspace, parameters = Workspace(self.net, min(len(raw), BLOCK), np), self.net.split(self.flat)
        normalised = np.empty((min(len(raw), BLOCK), self.net.features), np.float32)
        for start in range(0, len(raw), BLOCK):
            rows = slice(start, min(start + BLOCK, len(raw)))
            X = scaled(raw[rows], self.shift, self.scale, normalised[: rows.stop - start])
            finite = np.isfinite(X)
            if not finite.all():
                row, column = np.argwhere(~finite)[0]
                name = f"feature {column}" if self.inputs is None else f"feature {self.inputs.feature_names[column]!r}"
                raise ValueError(
                    f"{name} of row {start + row}, counted from 0, is {raw[start + row, column]}; a prediction needs "
                    "finite numbers that float32 holds after normalisation"
                )
            with np.errstate(all="ignore"):
                v = forward(parameters, X, workspace)
            finite = np.isfinite(v.s).all(axis=1)
            if not finite.all():
                row = start + int(np.argmin(finite))
                raise ValueError(
                    f"the scores of row {row}, counted from 0, overflow float32: its features are too large"
                )
            yield rows, v, workspace
