"""The forward pass to the scores, and the backward pass from the loss to the gradients.

Results are summed over the examples; the division by their number and the L2 term belong to the whole mini-batch and
are applied once, to the total (update_rules.py). This file is copied into every model that is logged to
MLflow, so it needs NumPy alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from .net import Array, Parameters
from .views import Views
from .workspace import Workspace

AddProduct = Callable[[Array, Array, Array], None]
"""Adds AᵀB to C, for (A, B, C)."""


def forward(parameters: Parameters, X: Array, workspace: Workspace) -> Views:
    """Return hidden activations h (n, H) and scores s (n, C) of X (n, D) in views of the workspace; v.dh is scratch."""
    xp, v = workspace.xp, workspace.views(len(X))
    inputs = X
    if workspace.activation is not None:
        inputs = v.h
        workspace.product(X, parameters.W1, out=v.h)
        xp.add(v.h, parameters.b1, out=v.h)
        workspace.activation.forward(v.h, v.kept, v.dh, xp)
    xp.matmul(inputs, parameters.W2, out=v.s)
    xp.add(v.s, parameters.b2, out=v.s)
    return v


def loss_and_gradient_sums(
    parameters: Parameters,
    X: Array,
    y: Array,
    weights: Array | None = None,
    *,
    out: Parameters,
    workspace: Workspace,
    add_product: AddProduct | None = None,
) -> float:
    """Return the sum of the examples' losses and fill `out` with the sum of their gradients, without L2.

    X is (n, D) float32, y as `losses.Target` says. With `weights` (n,) float32 each example counts as often as its
    weight says. With no examples the sums are zero. With `add_product` the gradients are added to `out`.
    """
    xp = workspace.xp
    if not len(X):
        if add_product is None:
            for gradient in out:
                gradient.fill(0)
        return 0.0
    v = forward(parameters, X, workspace)
    losses = workspace.loss.losses(v, y, xp)
    if weights is None:
        loss = float(losses.sum(dtype=xp.float64))
        workspace.loss.gradient(v, y, xp)
    else:
        loss = float(xp.multiply(losses, weights, out=losses).sum(dtype=xp.float64))
        workspace.loss.gradient(v, y, xp)
        xp.multiply(v.s, weights[:, None], out=v.s)
    inputs = X
    if workspace.activation is not None:
        inputs = v.h
        workspace.product(v.s, parameters.W2.T, out=v.dh)
        workspace.activation.backward(v.dh, v.h, v.kept, xp)
        _layer_gradient(X, v.dh, v.ones, out.W1, out.b1, workspace, add_product)
    _layer_gradient(inputs, v.s, v.ones, out.W2, out.b2, workspace, add_product)
    return loss


def _layer_gradient(
    X: Array, dY: Array, ones: Array, dW: Array, db: Array, workspace: Workspace, add_product: AddProduct | None
) -> None:
    """Write, or add, the gradients Xᵀ dY (m, k) and column sums of dY (k,) of a layer Y = X W + b for X (n, m)."""
    # A product with ones sums columns faster than a reduction does.
    if add_product is None:
        workspace.product(X.T, dY, out=dW)
        workspace.product(ones, dY, out=db)
    else:
        add_product(X, dY, dW)
        workspace.xp.add(db, workspace.product(ones, dY), out=db)


class Measured(NamedTuple):
    """What held-out examples are measured by."""

    losses: Array
    """(n,): without L2; a view of the workspace."""
    predicted: Array
    """What `Loss.predicted` returns."""
    probabilities: Array | None
    """(n, C): what `Loss.probabilities` gives; None unless it was asked for."""


def measured(
    parameters: Parameters, X: Array, y: Array, *, workspace: Workspace, probabilities: bool = False
) -> Measured:
    """Return losses and predictions of examples X (n, D) float32 with targets y as `losses.Target` says."""
    v, loss, xp = forward(parameters, X, workspace), workspace.loss, workspace.xp
    predicted = loss.predicted(v, xp)
    scores = xp.array(v.s, order="C") if probabilities else None
    losses = loss.losses(v, y, xp)
    if scores is None:
        return Measured(losses, predicted, None)
    v.s[...] = scores
    loss.probabilities(v, xp)
    return Measured(losses, predicted, xp.array(v.s, order="C"))
