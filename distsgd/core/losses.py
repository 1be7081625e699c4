"""Losses of the scores, one class each: the loss and its gradient in place, and what a prediction makes of the scores.

To add one, write a class like `SoftmaxCrossEntropy`, enter it in `LOSSES`, and name it in the configuration's list of
choices. This file is copied into every model that is logged to MLflow, so it needs NumPy alone.
"""

from __future__ import annotations

from types import ModuleType
from typing import Literal, Protocol

from .net import Array, Net
from .views import Views

Target = Literal["class", "labels", "numbers"]
"""What an example is trained towards: y (n,) int64, one class in [0, C); y (n, C) float32, a 0 or 1 for each label; or
y (n, C) float32, real numbers."""


class Loss(Protocol):
    """The loss L_i of each example's scores s (n, C), which are v.s in the views of a workspace."""

    target: Target
    has_probabilities: bool

    def losses(self, v: Views, y: Array, xp: ModuleType) -> Array:
        """Return each example's loss (n,) for targets y, a view of the workspace; v.s may be overwritten."""
        ...

    def gradient(self, v: Views, y: Array, xp: ModuleType) -> None:
        """Leave ∂(ΣL_i)/∂s in v.s, after `losses` of the same examples."""
        ...

    def predicted(self, v: Views, xp: ModuleType) -> Array:
        """Return, in a new array, what the scores v.s predict: classes (n,), labels (n, C) of 0 and 1, or numbers."""
        ...

    def probabilities(self, v: Views, xp: ModuleType) -> None:
        """Overwrite the scores v.s by the probabilities of the classes or labels, if `has_probabilities`."""
        ...


class SoftmaxCrossEntropy:
    """L_i = log Σ_j exp(s_ij) − s_i,y_i, with the row maximum subtracted first so that no exponential overflows."""

    target: Target = "class"
    has_probabilities = True

    def losses(self, v: Views, y: Array, xp: ModuleType) -> Array:
        """See Loss.losses; v.s becomes softmax(s)."""
        self._shift(v, xp)
        _locate_own(v, y, xp)
        own_scores = v.s_flat[v.own]
        self._softmax(v, xp)
        xp.log(v.column, out=v.losses)
        xp.subtract(v.losses, own_scores, out=v.losses)
        return v.losses

    def gradient(self, v: Views, y: Array, xp: ModuleType) -> None:  # noqa: ARG002 - `losses` left all it needs
        """See Loss.gradient: softmax(s) − onehot(y)."""
        v.s_flat[v.own] -= 1

    def predicted(self, v: Views, xp: ModuleType) -> Array:
        """See Loss.predicted: the class of largest score."""
        return xp.argmax(v.s, axis=1)

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


class SmoothedSoftmaxCrossEntropy(SoftmaxCrossEntropy):
    """Cross-entropy with the smoothed label q_i = (1−ε) onehot(y_i) + ε/C in place of onehot(y_i).

    L_i = log Σ_j exp(s_ij) − (1−ε) s_i,y_i − ε mean_j s_ij (Szegedy et al., "Rethinking the inception architecture",
    2016, section 7), as `label_smoothing` of PyTorch's CrossEntropyLoss.
    """

    def __init__(self, smoothing: float) -> None:
        self._smoothing = smoothing

    def losses(self, v: Views, y: Array, xp: ModuleType) -> Array:
        """See Loss.losses; v.s becomes softmax(s)."""
        self._shift(v, xp)
        _locate_own(v, y, xp)
        own_scores = v.s_flat[v.own]
        means = v.s.sum(axis=1)
        means *= self._smoothing / v.s.shape[1]
        own_scores *= 1 - self._smoothing
        self._softmax(v, xp)
        xp.log(v.column, out=v.losses)
        xp.subtract(v.losses, own_scores, out=v.losses)
        xp.subtract(v.losses, means, out=v.losses)
        return v.losses

    def gradient(self, v: Views, y: Array, xp: ModuleType) -> None:  # noqa: ARG002 - `losses` left all it needs
        """See Loss.gradient: softmax(s) − q."""
        v.s_flat[v.own] -= 1 - self._smoothing
        xp.subtract(v.s, self._smoothing / v.s.shape[1], out=v.s)


class MultiClassHinge:
    """L_i = Σ_{j ≠ y_i} max(0, s_ij − s_i,y_i + 1) (Weston and Watkins, "Support vector machines for multi-class
    pattern recognition", 1999); at a kink the gradient is that of 0. There are no probabilities."""  # noqa: D205, D209

    target: Target = "class"
    has_probabilities = False

    def losses(self, v: Views, y: Array, xp: ModuleType) -> Array:
        """See Loss.losses; v.s becomes max(0, s_ij − s_i,y_i + 1), and 0 for the own class."""
        _locate_own(v, y, xp)
        v.column[...] = v.s_flat[v.own]
        xp.subtract(v.s, v.column[:, None], out=v.s)  # exactly 0 for the own class, whatever the scores
        xp.add(v.s, 1, out=v.s)
        xp.maximum(v.s, 0, out=v.s)
        v.s_flat[v.own] -= 1  # which leaves NaN where a score is not finite, so that it is found
        v.s.sum(axis=1, out=v.losses)
        return v.losses

    def gradient(self, v: Views, y: Array, xp: ModuleType) -> None:  # noqa: ARG002 - `losses` left all it needs
        """See Loss.gradient: 1 for each other class within the margin, and minus their number for the own class."""
        v.s_flat[v.own] = 0
        xp.greater(v.s, 0, out=v.s)
        v.s.sum(axis=1, out=v.column)
        v.s_flat[v.own] = -v.column

    def predicted(self, v: Views, xp: ModuleType) -> Array:
        """See Loss.predicted: the class of largest score."""
        return xp.argmax(v.s, axis=1)

    def probabilities(self, v: Views, xp: ModuleType) -> None:  # noqa: ARG002
        """See Loss.probabilities; ValueError, because scores of a hinge loss are not those of probabilities."""
        raise ValueError("a model of model.loss=hinge has scores, and no probabilities")


class LogisticLoss:
    """L_i = Σ_k log(1 + exp(−z_ik)) with z_ik = (2 y_ik − 1) s_ik: C independent labels, each 0 or 1.

    Computed as max(0, −z) + log(1 + exp(−|z|)), so that no exponential overflows.
    """

    target: Target = "labels"
    has_probabilities = True

    def losses(self, v: Views, y: Array, xp: ModuleType) -> Array:
        """See Loss.losses; v.s becomes −z."""
        self._signs(v, y, xp)
        xp.multiply(v.s, v.other, out=v.s)
        xp.abs(v.s, out=v.other)
        xp.negative(v.other, out=v.other)
        xp.exp(v.other, out=v.other)
        xp.log1p(v.other, out=v.other)
        v.other.sum(axis=1, out=v.losses)
        xp.maximum(v.s, 0, out=v.other)
        v.other.sum(axis=1, out=v.column)
        xp.add(v.losses, v.column, out=v.losses)
        return v.losses

    def gradient(self, v: Views, y: Array, xp: ModuleType) -> None:
        """See Loss.gradient: σ(s) − y, which is (1 − 2y) σ(−z)."""
        self.probabilities(v, xp)
        self._signs(v, y, xp)
        xp.multiply(v.s, v.other, out=v.s)

    def predicted(self, v: Views, xp: ModuleType) -> Array:
        """See Loss.predicted: 1 where the probability exceeds one half."""
        return (v.s > 0).astype(xp.int64)

    def probabilities(self, v: Views, xp: ModuleType) -> None:
        """See Loss.probabilities: σ(s) = 1 / (1 + exp(−s)); the exponential may overflow to ∞, which gives 0."""
        xp.negative(v.s, out=v.s)
        xp.exp(v.s, out=v.s)
        xp.add(v.s, 1, out=v.s)
        xp.divide(1, v.s, out=v.s)

    def _signs(self, v: Views, y: Array, xp: ModuleType) -> None:
        """Leave 1 − 2y in v.other."""
        xp.multiply(y, -2, out=v.other)
        xp.add(v.other, 1, out=v.other)


class SquaredError:
    """L_i = ½ Σ_k (s_ik − y_ik)²: C real numbers."""

    target: Target = "numbers"
    has_probabilities = False

    def losses(self, v: Views, y: Array, xp: ModuleType) -> Array:
        """See Loss.losses; v.s becomes s − y."""
        xp.subtract(v.s, y, out=v.s)
        xp.multiply(v.s, v.s, out=v.other)
        v.other.sum(axis=1, out=v.losses)
        xp.multiply(v.losses, 0.5, out=v.losses)
        return v.losses

    def gradient(self, v: Views, y: Array, xp: ModuleType) -> None:
        """See Loss.gradient: s − y, as `losses` left it."""

    def predicted(self, v: Views, xp: ModuleType) -> Array:
        """See Loss.predicted: the scores."""
        return xp.array(v.s, order="C")

    def probabilities(self, v: Views, xp: ModuleType) -> None:  # noqa: ARG002
        """See Loss.probabilities; ValueError, because the scores are the predicted numbers."""
        raise ValueError("a model of model.loss=squared predicts numbers, and no probabilities")


def _locate_own(v: Views, y: Array, xp: ModuleType) -> None:
    """Leave the places in v.s_flat of the scores of the examples' own classes y (n,) in v.own."""
    xp.multiply(y, len(y), out=v.own)
    xp.add(v.own, v.position, out=v.own)


LOSSES: dict[str, Loss] = {
    "softmax": SoftmaxCrossEntropy(),
    "hinge": MultiClassHinge(),
    "logistic": LogisticLoss(),
    "squared": SquaredError(),
}
"""The losses by name; `Net.loss` is a key."""


def loss_of(net: Net) -> Loss:
    """Return the loss that a net is trained with."""
    return SmoothedSoftmaxCrossEntropy(net.label_smoothing) if net.label_smoothing else LOSSES[net.loss]
