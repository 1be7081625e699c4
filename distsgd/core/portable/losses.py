"""Losses of the scores in float64 from basic operations; the formulas are those of core/losses.py.

Sums over the classes are added in an order that the number of classes determines, whole rows of the (C, n) layout at a
time, so an example's loss does not depend on the other examples.
"""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple, Protocol

from distsgd.core.losses import MultiClassHinge as _Hinge
from distsgd.core.losses import Target
from distsgd.core.net import Array, Net
from distsgd.core.portable.elementary import Elementary
from distsgd.core.portable.workspace_views import PortableViews


class ScoreBounds(NamedTuple):
    """Bounds of what a loss makes of one example's scores."""

    loss: float
    """Of the loss."""
    gradient: float
    """Of each |∂L/∂s_k|."""
    gradient_sum: float
    """Of Σ_k |∂L/∂s_k|."""


class PortableLoss(Protocol):
    """The loss L_i of each example's scores s (n, C), which are v.s in the views of a workspace, all float64."""

    target: Target
    has_probabilities: bool

    def bounds(self, classes: int, scores: float, targets: float) -> ScoreBounds:
        """Return bounds for scores of at most `scores`, and real targets of at most `targets`, as absolute values."""
        ...

    def losses(self, v: PortableViews, y: Array, functions: Elementary, xp: ModuleType) -> Array:
        """Return each example's loss (n,), a view of the workspace, and leave in v.s what `gradient` needs."""
        ...

    def gradient(self, v: PortableViews, y: Array, functions: Elementary, xp: ModuleType) -> None:
        """Leave ∂(ΣL_i)/∂s in v.s, after `losses` of the same examples."""
        ...

    def predicted(self, v: PortableViews, xp: ModuleType) -> Array:
        """Return, in a new array, what the scores v.s predict: classes (n,), labels (n, C) of 0 and 1, or numbers."""
        ...

    def probabilities(self, v: PortableViews, functions: Elementary, xp: ModuleType) -> None:
        """Overwrite the scores v.s by the probabilities of the classes or labels, if `has_probabilities`."""
        ...


class SoftmaxCrossEntropy:
    """L_i = log Σ_j exp(s_ij) − (1−ε) s_i,y_i − ε mean_j s_ij, with ε = 0 unless labels are smoothed."""

    target: Target = "class"
    has_probabilities = True

    def __init__(self, smoothing: float = 0.0) -> None:
        self._smoothing = smoothing

    def bounds(self, classes: int, scores: float, targets: float) -> ScoreBounds:  # noqa: ARG002
        """See PortableLoss.bounds: log C ≤ C, and no two scores differ by more than 2·`scores`."""
        return ScoreBounds(classes + 2 * scores, 1.0, 2.0)

    def losses(self, v: PortableViews, y: Array, functions: Elementary, xp: ModuleType) -> Array:
        """See PortableLoss.losses; v.s becomes softmax(s)."""
        self._shift(v, xp)
        _locate_own(v, y, xp)
        own_scores = v.s_flat[v.own]
        if self._smoothing:
            own_scores *= 1 - self._smoothing
            _sum_of_classes(v, v.s, v.losses, xp)
            xp.multiply(v.losses, self._smoothing / v.s.shape[1], out=v.losses)
            xp.add(own_scores, v.losses, out=own_scores)
        self._softmax(v, functions, xp)
        functions.log(v.column)
        xp.subtract(v.column, own_scores, out=v.losses)
        return v.losses

    def gradient(self, v: PortableViews, y: Array, functions: Elementary, xp: ModuleType) -> None:  # noqa: ARG002
        """See PortableLoss.gradient: softmax(s) − (1−ε) onehot(y) − ε/C."""
        v.s_flat[v.own] -= 1 - self._smoothing
        if self._smoothing:
            xp.subtract(v.s_flat, self._smoothing / v.s.shape[1], out=v.s_flat)

    def predicted(self, v: PortableViews, xp: ModuleType) -> Array:
        """See PortableLoss.predicted: the class of largest score."""
        return xp.argmax(v.s, axis=1)

    def probabilities(self, v: PortableViews, functions: Elementary, xp: ModuleType) -> None:
        """See PortableLoss.probabilities: softmax(s)."""
        self._shift(v, xp)
        self._softmax(v, functions, xp)

    def _shift(self, v: PortableViews, xp: ModuleType) -> None:
        """Subtract each example's largest score from its scores."""
        v.s.T.max(axis=0, out=v.column)
        xp.subtract(v.s, v.column[:, None], out=v.s)

    def _softmax(self, v: PortableViews, functions: Elementary, xp: ModuleType) -> None:
        """Overwrite shifted scores by their softmax; v.column becomes the sum of their exponentials."""
        functions.exp(v.s_flat)
        _sum_of_classes(v, v.s, v.column, xp)
        xp.divide(v.s, v.column[:, None], out=v.s)


class MultiClassHinge(_Hinge):
    """L_i = Σ_{j ≠ y_i} max(0, s_ij − s_i,y_i + 1)."""

    def bounds(self, classes: int, scores: float, targets: float) -> ScoreBounds:  # noqa: ARG002
        """See PortableLoss.bounds."""
        return ScoreBounds(classes * (1 + 2 * scores), classes, 2 * classes)

    def losses(self, v: PortableViews, y: Array, functions: Elementary, xp: ModuleType) -> Array:  # type: ignore[override]  # noqa: ARG002
        """See PortableLoss.losses; v.s becomes max(0, s_ij − s_i,y_i + 1), and 0 for the own class."""
        _locate_own(v, y, xp)
        v.column[...] = v.s_flat[v.own]
        xp.subtract(v.s, v.column[:, None], out=v.s)
        xp.add(v.s, 1.0, out=v.s)
        xp.maximum(v.s, 0.0, out=v.s)
        v.s_flat[v.own] = 0
        _sum_of_classes(v, v.s, v.losses, xp)
        return v.losses

    def gradient(self, v: PortableViews, y: Array, functions: Elementary, xp: ModuleType) -> None:  # type: ignore[override]  # noqa: ARG002
        """See PortableLoss.gradient: 1 for each other class within the margin, and minus their number for the own."""
        xp.sign(v.s_flat, out=v.s_flat)
        _sum_of_classes(v, v.s, v.column, xp)
        v.s_flat[v.own] = -v.column


class LogisticLoss:
    """L_i = Σ_k log(1 + exp(−z_ik)) with z_ik = (2 y_ik − 1) s_ik: C independent labels, each 0 or 1."""

    target: Target = "labels"
    has_probabilities = True

    def bounds(self, classes: int, scores: float, targets: float) -> ScoreBounds:  # noqa: ARG002
        """See PortableLoss.bounds."""
        return ScoreBounds(classes * (1 + scores), 1.0, classes)

    def losses(self, v: PortableViews, y: Array, functions: Elementary, xp: ModuleType) -> Array:
        """See PortableLoss.losses; v.s stays as it is."""
        self._signs(v, y, xp)
        xp.multiply(v.s, v.other, out=v.other)  # −z
        xp.maximum(v.other, 0.0, out=v.third)
        xp.absolute(v.other, out=v.other)
        xp.negative(v.other, out=v.other)
        functions.exp(v.other_flat)
        functions.log1p(v.other_flat)
        xp.add(v.other, v.third, out=v.other)
        _sum_of_classes(v, v.other, v.losses, xp)
        return v.losses

    def gradient(self, v: PortableViews, y: Array, functions: Elementary, xp: ModuleType) -> None:
        """See PortableLoss.gradient: σ(s) − y, as (1 − 2y) σ(−z), which keeps its relative accuracy."""
        self._signs(v, y, xp)
        xp.multiply(v.s, v.other, out=v.s)
        functions.sigmoid(v.s_flat)
        xp.multiply(v.s, v.other, out=v.s)

    def predicted(self, v: PortableViews, xp: ModuleType) -> Array:
        """See PortableLoss.predicted: 1 where the probability exceeds one half."""
        return (v.s > 0).astype(xp.int64)

    def probabilities(self, v: PortableViews, functions: Elementary, xp: ModuleType) -> None:  # noqa: ARG002
        """See PortableLoss.probabilities: σ(s)."""
        functions.sigmoid(v.s_flat)

    def _signs(self, v: PortableViews, y: Array, xp: ModuleType) -> None:
        """Leave 1 − 2y in v.other."""
        xp.multiply(y, -2.0, out=v.other)
        xp.add(v.other, 1.0, out=v.other)


class SquaredError:
    """L_i = ½ Σ_k (s_ik − y_ik)²: C real numbers."""

    target: Target = "numbers"
    has_probabilities = False

    def bounds(self, classes: int, scores: float, targets: float) -> ScoreBounds:
        """See PortableLoss.bounds."""
        largest = scores + targets
        return ScoreBounds(classes * largest * largest, largest, classes * largest)

    def losses(self, v: PortableViews, y: Array, functions: Elementary, xp: ModuleType) -> Array:  # noqa: ARG002
        """See PortableLoss.losses; v.s becomes s − y."""
        xp.subtract(v.s, y, out=v.s)
        xp.multiply(v.s, v.s, out=v.other)
        _sum_of_classes(v, v.other, v.losses, xp)
        xp.multiply(v.losses, 0.5, out=v.losses)
        return v.losses

    def gradient(self, v: PortableViews, y: Array, functions: Elementary, xp: ModuleType) -> None:
        """See PortableLoss.gradient: s − y, as `losses` left it."""

    def predicted(self, v: PortableViews, xp: ModuleType) -> Array:
        """See PortableLoss.predicted: the scores, rounded to float32."""
        return xp.array(v.s, order="C").astype(xp.float32)

    def probabilities(self, v: PortableViews, functions: Elementary, xp: ModuleType) -> None:  # noqa: ARG002
        """See PortableLoss.probabilities; ValueError, because the scores are the predicted numbers."""
        raise ValueError("a model of model.loss=squared predicts numbers, and no probabilities")


def _locate_own(v: PortableViews, y: Array, xp: ModuleType) -> None:
    """Leave the places in v.s_flat of the scores of the examples' own classes y (n,) in v.own."""
    xp.multiply(y, len(y), out=v.own)
    xp.add(v.own, v.position, out=v.own)


def _sum_of_classes(v: PortableViews, values: Array, out: Array, xp: ModuleType) -> None:
    """Write the sums over the classes of values (n, C), laid out as v.s, to `out` (n,); v.other is overwritten.

    Halves are added to one another until three classes or fewer are left, an order that depends on C alone.
    """
    rows, classes = values.T, values.shape[1]
    sums = v.other.T
    while classes > 3:
        half = classes // 2
        xp.add(rows[:half], rows[half : 2 * half], out=sums[:half])
        if classes % 2:
            xp.add(sums[0], rows[2 * half], out=sums[0])
        rows, classes = sums, half
    if classes == 1:
        xp.multiply(rows[0], 1.0, out=out)
        return
    xp.add(rows[0], rows[1], out=out)
    if classes == 3:
        xp.add(out, rows[2], out=out)


_LOSSES: dict[str, PortableLoss] = {
    "hinge": MultiClassHinge(),  # type: ignore[dict-item]
    "logistic": LogisticLoss(),
    "squared": SquaredError(),
}


def loss_of(net: Net) -> PortableLoss:
    """Return the loss that a net is trained with."""
    return SoftmaxCrossEntropy(net.label_smoothing) if net.loss == "softmax" else _LOSSES[net.loss]
