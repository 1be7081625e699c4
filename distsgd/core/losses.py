"""Losses of the scores, one class each: the loss and its gradient in place, and the probabilities of a prediction.

To add one, write a class like `SoftmaxCrossEntropy`, enter it in `LOSSES`, and name it in the configuration's list of
choices. This file is copied into every model that is logged to MLflow, so it needs NumPy alone.
"""

from __future__ import annotations

from types import ModuleType
from typing import Protocol

from .net import Array
from .views import Views


class Loss(Protocol):
    """The loss L_i of each example's scores s (n, C), which are v.s in the views of a workspace."""

    def losses(self, v: Views, y: Array, xp: ModuleType) -> Array:
        """Return each example's loss (n,) for classes y (n,), a view of the workspace; v.s may be overwritten."""
        ...

    def gradient(self, v: Views, y: Array, xp: ModuleType) -> None:
        """Leave ∂(ΣL_i)/∂s in v.s, after `losses` of the same examples."""
        ...

    def probabilities(self, v: Views, xp: ModuleType) -> None:
        """Overwrite the scores v.s by the probabilities of the classes."""
        ...


class SoftmaxCrossEntropy:
    """L_i = log Σ_j exp(s_ij) − s_i,y_i, with the row maximum subtracted first so that no exponential overflows."""

    def losses(self, v: Views, y: Array, xp: ModuleType) -> Array:
        """See Loss.losses; v.s becomes softmax(s)."""
        self._shift(v, xp)
        xp.multiply(y, len(y), out=v.own)
        xp.add(v.own, v.position, out=v.own)
        own_scores = v.s_flat[v.own]
        self._softmax(v, xp)
        xp.log(v.column, out=v.losses)
        xp.subtract(v.losses, own_scores, out=v.losses)
        return v.losses

    def gradient(self, v: Views, y: Array, xp: ModuleType) -> None:  # noqa: ARG002 - `losses` left all it needs
        """See Loss.gradient: softmax(s) − onehot(y)."""
        v.s_flat[v.own] -= 1

    def probabilities(self, v: Views, xp: ModuleType) -> None:
        """See Loss.probabilities: softmax(s)."""
        self._shift(v, xp)
        self._softmax(v, xp)

    def _shift(self, v: Views, xp: ModuleType) -> None:
        """Subtract each example's largest score from its scores."""
        v.s.max(axis=1, out=v.column)
        xp.subtract(v.s, v.column[:, None], out=v.s)

    def _softmax(self, v: Views, xp: ModuleType) -> None:
        """Overwrite shifted scores by their softmax; v.column becomes the sum of their exponentials."""
        xp.exp(v.s, out=v.s)
        v.s.sum(axis=1, out=v.column)
        xp.divide(v.s, v.column[:, None], out=v.s)


LOSSES: dict[str, Loss] = {"softmax": SoftmaxCrossEntropy()}
"""The losses by name; `Net.loss` is a key."""
