"""Activations, losses and predictions of portable arithmetic beside those of core/ in float64."""

from __future__ import annotations

import numpy as np
import pytest

from distsgd.core import activations, backprop
from distsgd.core.backend import to_host
from distsgd.core.gradcheck import Double
from distsgd.core.losses import LOSSES
from distsgd.core.net import Net
from distsgd.core.portable.activations import ACTIVATIONS
from distsgd.core.portable.backprop import loss_sum, measured
from distsgd.core.portable.bounds import DataBounds
from distsgd.core.portable.elementary import Elementary
from distsgd.core.portable.step import Grids
from distsgd.core.portable.workspace import PortableWorkspace
from distsgd.core.workspace import Workspace

RNG = np.random.default_rng(5)
POINTS = np.concatenate([RNG.normal(0, 3, 400), [0.0, 1e-12, -1e-12, 30.0, -30.0, 1e4, -1e4]])[None]


@pytest.mark.parametrize("name", activations.ACTIVATIONS)
def test_activations_and_their_slopes_are_those_of_core(xp, name):
    assert ACTIVATIONS.keys() == activations.ACTIVATIONS.keys()
    expected, kept, scratch = POINTS.copy(), np.empty(POINTS.shape), np.empty(POINTS.shape)
    slope = np.ones(POINTS.shape)
    with np.errstate(over="ignore", invalid="ignore"):
        activations.ACTIVATIONS[name].forward(expected, kept, scratch, Double())
        activations.ACTIVATIONS[name].backward(slope, expected, kept, Double())
    h, own, dh = (xp.asarray(x.copy()) for x in (POINTS, kept, np.ones(POINTS.shape)))
    ACTIVATIONS[name].forward(h, own, Elementary(xp, POINTS.size), xp)
    ACTIVATIONS[name].backward(dh, h, own, xp)
    np.testing.assert_allclose(to_host(h), expected, rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(to_host(dh), slope, rtol=1e-13, atol=1e-15)
    assert np.abs(slope).max() <= ACTIVATIONS[name].steepest
    assert np.abs(expected).max() <= (ACTIVATIONS[name].largest or np.abs(POINTS).max())
    assert ACTIVATIONS[name].negative == (expected < 0).any()


def example(loss: str) -> tuple[Net, np.ndarray, np.ndarray, np.ndarray]:
    rng, net = np.random.default_rng(6), Net(6, 5, 4, loss=loss)
    y = rng.integers(0, 4, 9)
    if loss in ("logistic", "squared"):
        y = rng.integers(0, 2, (9, 4)).astype(np.float32)
    return net, rng.standard_normal((9, 6)).astype(np.float32), y, net.initial(1)


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_and_predictions_are_those_of_core(xp, loss):
    net, X, y, flat = example(loss)
    chances = LOSSES[loss].has_probabilities
    expected = backprop.measured(
        net.split(flat.astype(np.float64)), X, y, workspace=Workspace(net, 9, Double()), probabilities=chances
    )
    workspace, parameters = PortableWorkspace(net, 9, xp), net.split(xp.asarray(flat))
    grids = Grids(net, DataBounds.of(X, y), 9, xp).of(parameters)
    of = (parameters, xp.asarray(X), xp.asarray(y))
    found = measured(*of, grids=grids, workspace=workspace, probabilities=chances)
    np.testing.assert_allclose(to_host(found.losses), expected.losses, rtol=1e-5)
    np.testing.assert_allclose(to_host(found.predicted), expected.predicted, rtol=1e-5)
    assert (found.probabilities is None) == (not chances)
    if chances:
        np.testing.assert_allclose(to_host(found.probabilities), expected.probabilities, rtol=1e-5)
    assert loss_sum(found.losses, None, grids, workspace) == pytest.approx(float(np.sum(expected.losses)), rel=1e-5)


def test_an_examples_loss_does_not_depend_on_the_others():
    net, X, y, flat = example("softmax")
    workspace, grids = PortableWorkspace(net, 9, np), Grids(net, DataBounds.of(X), 9).of(net.split(flat))
    whole = measured(net.split(flat), X, y, grids=grids, workspace=workspace).losses.copy()
    for i in range(9):
        alone = measured(net.split(flat), X[i : i + 1], y[i : i + 1], grids=grids, workspace=workspace)
        assert alone.losses[0] == whole[i]


def test_losses_of_parameters_that_are_not_finite_are_nan():
    net, X, y, flat = example("softmax")
    flat[3] = np.inf
    workspace, grids = PortableWorkspace(net, 9, np), Grids(net, DataBounds.of(X), 9).of(net.split(flat))
    assert np.isnan(measured(net.split(flat), X, y, grids=grids, workspace=workspace).losses).all()
