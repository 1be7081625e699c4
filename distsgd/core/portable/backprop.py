"""The forward and the backward pass with the same bits on every machine, as core/backprop.py otherwise.

Every product is exact on the grids of a step (step.py), and everything else is elementwise; so an example's part of a
sum does not depend on the other examples, and sums over any parts of a mini-batch add up to the same total.
"""

from __future__ import annotations

import math

from distsgd.core.backprop import Measured
from distsgd.core.net import Array, Parameters
from distsgd.core.portable.exact import product
from distsgd.core.portable.grids import narrow_rounder, rounded, row_rounders
from distsgd.core.portable.step import StepGrids
from distsgd.core.portable.widths import exponent
from distsgd.core.portable.workspace import NARROW_CHUNK, PortableWorkspace
from distsgd.core.portable.workspace_views import PortableViews


def forward(parameters: Parameters, X: Array, grids: StepGrids, workspace: PortableWorkspace) -> PortableViews:
    """Return X' (n, D), hidden activations h (n, H) and scores s (n, C) in views of the workspace, all float64.

    X is (n, D), float32 or integers as they are stored, within the bounds that the grids are made for.
    """
    xp, v, data = workspace.xp, workspace.views(len(X)), grids.data
    _round_features(X, v, grids, workspace)
    inputs, W, pieces = v.X, workspace.weights, data.pieces
    if workspace.activation is not None:
        _round_weights(parameters.W1, grids, W.W1, workspace)
        product(v.X, W.W1, v.h, pieces, workspace.product, xp)
        xp.copyto(W.b1, parameters.b1)
        for rows in workspace.chunks(len(X), W.b1.size):
            _activate(v, rows, grids, workspace)
        xp.copyto(W.W2, parameters.W2)
        rounded(W.W2, grids.W2, W.W2, xp)
        inputs, pieces = v.dh, data.hidden_pieces
    else:
        _round_weights(parameters.W2, grids, W.W2, workspace)
    product(W.W2.T, inputs.T, v.s.T, pieces, workspace.product, xp)
    if workspace.activation is None and data.factor != 1:
        xp.multiply(v.s_flat, data.factor, out=v.s_flat)
    xp.copyto(W.b2, parameters.b2)
    xp.add(v.s, W.b2, out=v.s)
    return v


def loss_and_gradient_sums(
    parameters: Parameters,
    X: Array,
    y: Array,
    weights: Array | None = None,
    *,
    grids: StepGrids,
    out: Parameters,
    workspace: PortableWorkspace,
) -> float:
    """Return the sum of the examples' losses and fill `out` float64 with the sum of their gradients, without L2.

    X is as `forward` says, y as `losses.Target` says; with `weights` (n,) float32 each example counts as often as its
    weight says. The sums, and those of several calls for parts of a mini-batch, are exact. W1's gradient, or W2's
    without a hidden layer, is that of W' in step.py. With no examples the sums are zero. Without finite parameters and
    data they are NaN.
    """
    xp = workspace.xp
    if not len(X) or not grids.finite:
        for gradient in out:
            gradient.fill(math.nan if len(X) else 0.0)
        return math.nan if len(X) else 0.0
    v, W, functions = forward(parameters, X, grids, workspace), workspace.weights, workspace.functions
    losses = workspace.loss.losses(v, y, functions, xp)
    if weights is not None:
        xp.copyto(v.weights, weights)
        rounded(v.weights, grids.data.weight_quantum, v.weights, xp)
    loss = loss_sum(losses, None if weights is None else v.weights, grids, workspace)
    workspace.loss.gradient(v, y, functions, xp)
    if weights is not None:
        xp.multiply(v.s, v.weights[:, None], out=v.s)
    rounded(v.s_flat, grids.ds_coarse, v.other_flat, xp)  # for W2's gradient
    rounded(v.s_flat, grids.ds, v.s_flat, xp)
    workspace.product(v.ones, v.s, out=out.b2)
    if grids.data.X_backward != grids.data.X:
        rounded(v.X, grids.data.X_backward, v.X, xp)
    inputs = v.X
    if workspace.activation is not None:
        workspace.product(v.s, W.W2.T, out=v.dh)
        for rows in workspace.chunks(len(X), W.b1.size):
            dh, h = v.dh[rows], v.h[rows]
            workspace.activation.backward(dh, h, v.kept[rows], xp)
            rounded(dh, grids.da, dh, xp)
            rounded(h, grids.h, h, xp)
        workspace.product(v.X.T, v.dh, out=out.W1)
        workspace.product(v.ones, v.dh, out=out.b1)
        inputs = v.h
    workspace.product(inputs.T, v.other, out=out.W2)
    return loss


def loss_sum(losses: Array, weights: Array | None, grids: StepGrids, workspace: PortableWorkspace) -> float:
    """Return the exact sum of the losses (n,), each multiplied by its example's weight, on their grid.

    `losses` is overwritten; `weights` (n,) are float64 on their grid.
    """
    if weights is not None:
        workspace.xp.multiply(losses, weights, out=losses)
    return float(rounded(losses, grids.loss, losses, workspace.xp).sum())


def measured(
    parameters: Parameters,
    X: Array,
    y: Array,
    *,
    grids: StepGrids,
    workspace: PortableWorkspace,
    probabilities: bool = False,
) -> Measured:
    """Return losses (n,) float64 and predictions of examples X, as `forward` takes them, with targets y.

    Without finite parameters the losses are NaN, and predictions are those of scores 0.
    """
    xp, loss, functions = workspace.xp, workspace.loss, workspace.functions
    if grids.finite:
        v = forward(parameters, X, grids, workspace)
    else:
        v = workspace.views(len(X))
        v.s_flat.fill(0)
    predicted = loss.predicted(v, xp)
    scores = xp.array(v.s, order="C") if probabilities else None
    losses = loss.losses(v, y, functions, xp)
    if not grids.finite:
        losses.fill(math.nan)
    if scores is None:
        return Measured(losses, predicted, None)
    v.s[...] = scores
    loss.probabilities(v, functions, xp)
    return Measured(losses, predicted, xp.array(v.s, order="C"))


def _activate(v: PortableViews, rows: slice, grids: StepGrids, workspace: PortableWorkspace) -> None:
    """Overwrite X'W' of some rows in v.h by activations; write these, on their examples' grids, to v.dh."""
    xp, data, activation = workspace.xp, grids.data, workspace.activation
    assert activation is not None
    h, on_grid = v.h[rows], v.dh[rows]
    if data.factor != 1:
        xp.multiply(h, data.factor, out=h)
    xp.add(h, workspace.weights.b1, out=h)
    activation.forward(h, v.kept[rows], workspace.functions, xp)
    if activation.largest is not None:
        rounded(h, exponent(activation.largest) - data.hidden_bits, on_grid, xp)
        return
    M = row_rounders(h, data.hidden_bits, v.rounders[rows], xp, negative=activation.negative)
    xp.add(h, M, out=on_grid)
    xp.subtract(on_grid, M, out=on_grid)


def _round_features(X: Array, v: PortableViews, grids: StepGrids, workspace: PortableWorkspace) -> None:
    """Write X' to v.X."""
    xp, data = workspace.xp, grids.data
    if data.exact:
        xp.copyto(v.X, X)
        return
    if data.fits_float32 and X.dtype == xp.float32:
        _round_narrow_features(X, v, grids, workspace)
        return
    for rows in workspace.chunks(*X.shape):
        part = v.X[rows]
        xp.copyto(part, X[rows])
        if data.feature_divisors is not None:
            xp.multiply(part, data.feature_divisors, out=part)
        rounded(part, data.X, part, xp)


def _round_narrow_features(X: Array, v: PortableViews, grids: StepGrids, workspace: PortableWorkspace) -> None:
    """Do the same in float32, which takes less time and rounds to the same multiples; see Grids.fits_float32."""
    (n, width), xp, data = X.shape, workspace.xp, grids.data
    M = xp.float32(narrow_rounder(data.X))
    for rows in workspace.chunks(n, width, NARROW_CHUNK):
        part = X[rows]
        scratch = workspace.narrow[: part.size].reshape(part.shape)
        if data.narrow_divisors is not None:
            part = xp.multiply(part, data.narrow_divisors, out=scratch)
        xp.add(part, M, out=scratch)
        xp.subtract(scratch, M, out=scratch)
        xp.copyto(v.X[rows], scratch)


def _round_weights(weights: Array, grids: StepGrids, out: Array, workspace: PortableWorkspace) -> None:
    """Write W' on its grid to `out` (D, k)."""
    xp, factors = workspace.xp, grids.data.feature_factors
    for rows in workspace.chunks(*weights.shape):
        part = out[rows]
        xp.copyto(part, weights[rows])
        if factors is not None:
            xp.multiply(part, factors[rows, None], out=part)
        rounded(part, grids.W, part, xp)
