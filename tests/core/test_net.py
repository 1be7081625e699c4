"""The net's mathematics: gradients against central differences, losses against an independent float64 formula."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distsgd.config import OptimConfig
from distsgd.core import backprop, optim
from distsgd.core.activations import ACTIVATIONS
from distsgd.core.backend import to_host
from distsgd.core.backprop import forward, loss_and_gradient_sums, measured
from distsgd.core.losses import LOSSES, SoftmaxCrossEntropy
from distsgd.core.net import Net, Parameters
from distsgd.core.update_rules import Step, update_rule
from distsgd.core.workspace import Workspace

NET = Net(5, 7, 4)
COUNT = 8
SHARDS = (slice(0, 3), slice(3, 8))
L2 = 2.0**-5  # a power of two, like COUNT, so that float32 holds every factor of the update exactly
EPSILON = 1e-5


class Double:
    """An array module whose float32 is float64, so that the real functions can be run in float64."""

    def __init__(self, xp):
        self._xp = xp
        self.float32 = xp.float64

    def __getattr__(self, name):
        return getattr(self._xp, name)


def examples(count: int = COUNT, net: Net = NET, seed: int = 0, dtype: str = "float64"):
    rng = np.random.default_rng(seed)
    flat = rng.normal(0, 0.7, net.size).astype(dtype)
    return flat, rng.normal(size=(count, net.features)).astype(dtype), rng.integers(net.classes, size=count)


def reference(net: Net, flat, X, y) -> tuple[np.ndarray, np.ndarray]:
    """Return each example's loss (N,) and gradient (N, P) in float64, by loops over the formulas of DESIGN."""
    W1, b1, W2, b2 = (part.astype(np.float64) for part in net.split(np.asarray(flat)))
    losses, gradients = [], []
    for x, own in zip(np.asarray(X, np.float64), y, strict=True):
        a = x @ W1 + b1
        h = np.where(a > 0, a, 0)
        s = h @ W2 + b2
        top = s.max()
        losses.append(np.log(np.exp(s - top).sum()) + top - s[own])
        ds = np.exp(s - top) / np.exp(s - top).sum() - np.eye(net.classes)[own]
        dh = np.where(a > 0, W2 @ ds, 0)
        gradients.append(np.concatenate([np.outer(x, dh).ravel(), dh, np.outer(h, ds).ravel(), ds]))
    return np.array(losses), np.array(gradients)


def sums_of_shards(xp, flat, X, y) -> tuple[float, np.ndarray]:
    """Return loss sum and gradient sums (P,) over all shards, by the real functions in float64."""
    workspace = Workspace(NET, COUNT, Double(xp))
    loss, total = 0.0, np.zeros(NET.size)
    for shard in SHARDS:
        gradient = xp.empty(NET.size)
        loss += backprop.loss_and_gradient_sums(
            NET.split(xp.asarray(flat)),
            xp.asarray(X[shard]),
            xp.asarray(y[shard]),
            out=NET.split(gradient),
            workspace=workspace,
        )
        total += to_host(gradient)
    return loss, total


def loss_of(xp, flat, X, y) -> float:
    """Return the mini-batch's loss L."""
    return sums_of_shards(xp, flat, X, y)[0] / COUNT + optim.l2_loss(NET, flat, L2, np)


def gradient_of(xp, flat, X, y) -> np.ndarray:
    """Return what a plain step with the learning rate 1 takes off the parameters, block by block."""
    _, total = sums_of_shards(xp, flat, X, y)
    new = np.empty_like(flat)
    for part, biases in optim.blocks(NET):
        update_rule(OptimConfig(l2=L2)).update(
            total[part],
            flat[part],
            {},
            step=Step(COUNT, lr=1.0, clip=1.0, number=1),
            biases=biases,
            out=new[part],
            slots_out={},
            scratch=np.empty_like(flat[part]),
            xp=np,
        )
    return flat - new


def worst_errors(xp) -> Parameters:
    """Return, for each of W1, b1, W2, b2, the largest difference between gradient and central difference."""
    flat, X, y = examples(net=NET)
    W1, b1, _, _ = NET.split(flat)
    if NET.hidden:
        assert np.abs(X @ W1 + b1).min() > 10 * EPSILON * max(1, np.abs(X).max())  # no difference crosses a kink
    numeric = np.empty(NET.size)
    for i in range(NET.size):
        there, back = flat.copy(), flat.copy()
        there[i] += EPSILON
        back[i] -= EPSILON
        numeric[i] = (loss_of(xp, there, X, y) - loss_of(xp, back, X, y)) / (2 * EPSILON)
    return Parameters(*(np.abs(part).max(initial=0) for part in NET.split(gradient_of(xp, flat, X, y) - numeric)))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_gradient_agrees_with_central_differences(xp, monkeypatch, activation):
    monkeypatch.setitem(globals(), "NET", Net(5, 7, 4, activation=activation))
    # GELU's Φ is within 1.1e-9 of the distribution, and its derivative within 1e-7 of the density.
    assert max(worst_errors(xp)) < (1e-7 if activation == "gelu" else 1e-9)


def test_every_gradient_of_a_net_without_a_hidden_layer_agrees_with_central_differences(xp, monkeypatch):
    monkeypatch.setitem(globals(), "NET", Net(5, 0, 4))
    assert max(worst_errors(xp)) < 1e-9


def test_central_differences_find_a_bias_gradient_that_is_divided_twice(xp, monkeypatch):
    right = backprop.loss_and_gradient_sums

    def wrong(parameters, X, y, *, out, workspace):
        loss = right(parameters, X, y, out=out, workspace=workspace)
        out.b2[...] /= COUNT
        return loss

    monkeypatch.setattr(backprop, "loss_and_gradient_sums", wrong)
    errors = worst_errors(xp)
    assert errors.b2 > 1e-2
    assert max(errors.W1, errors.b1, errors.W2) < 1e-9


def test_central_differences_find_a_loss_with_the_exponential_of_the_own_score(xp, monkeypatch):
    right = SoftmaxCrossEntropy.losses

    def wrong(self, v, y, xp):
        own = v.s[xp.arange(len(y)), y]
        return right(self, v, y, xp) + own - xp.exp(own)

    monkeypatch.setattr(SoftmaxCrossEntropy, "losses", wrong)
    assert min(worst_errors(xp)) > 1e-2


def test_central_differences_find_l2_that_is_added_once_per_shard(xp, monkeypatch):
    right = backprop.loss_and_gradient_sums

    def wrong(parameters, X, y, *, out, workspace):
        loss = right(parameters, X, y, out=out, workspace=workspace)
        out.W1[...] += COUNT * 2 * L2 * parameters.W1
        out.W2[...] += COUNT * 2 * L2 * parameters.W2
        return loss

    monkeypatch.setattr(backprop, "loss_and_gradient_sums", wrong)
    errors = worst_errors(xp)
    assert min(errors.W1, errors.W2) > 1e-2
    assert max(errors.b1, errors.b2) < 1e-9


def probabilities_of(flat, X) -> np.ndarray:
    """Return softmax(s) (n, C) by the functions that predict."""
    workspace = Workspace(NET, len(X), np)
    v = forward(NET.split(flat), X, workspace)
    workspace.loss.probabilities(v, np)
    return v.s


class Softplus:
    """A user-defined activation, smooth so that differences are exact: f(a) = log(1 + exp(a))."""

    def forward(self, h, kept, scratch, xp):
        xp.exp(h, out=kept)
        xp.log(1 + kept, out=h)
        xp.divide(kept, 1 + kept, out=kept)

    def backward(self, dh, h, kept, xp):
        xp.multiply(dh, kept, out=dh)

    def initial_deviation(self, fan_in, fan_out):
        return (2 / (fan_in + fan_out)) ** 0.5


def test_an_activation_is_added_by_one_entry(xp, monkeypatch):
    monkeypatch.setitem(ACTIVATIONS, "softplus", Softplus())
    monkeypatch.setitem(globals(), "NET", Net(5, 7, 4, activation="softplus"))
    assert max(worst_errors(xp)) < 1e-9
    wide = Net(300, 100, 50, activation="softplus")
    W1, _, W2, _ = wide.split(wide.initial(0))
    assert [W.std() for W in (W1, W2)] == pytest.approx([(2 / 400) ** 0.5, (2 / 150) ** 0.5], rel=0.03)


@pytest.mark.parametrize("count", [1, 2, 13])
def test_float32_sums_agree_with_an_independent_formula(xp, count):
    net = Net(11, 6, 3)
    flat, X, y = examples(count, net, seed=count, dtype="float32")
    losses, gradients = reference(net, flat, X, y)
    gradient = xp.empty(net.size, xp.float32)
    loss = loss_and_gradient_sums(
        net.split(xp.asarray(flat)),
        xp.asarray(X),
        xp.asarray(y),
        out=net.split(gradient),
        workspace=Workspace(net, 13, xp),
    )
    assert loss == pytest.approx(losses.sum(), rel=1e-5)
    np.testing.assert_allclose(to_host(gradient), gradients.sum(axis=0), rtol=1e-4, atol=1e-5 * count)


@given(cuts=st.lists(st.integers(0, 24), max_size=5), seed=st.integers(0, 99))
def test_sums_over_any_shards_equal_the_sum_over_the_whole(cuts, seed):
    flat, X, y = examples(24, seed=seed, dtype="float32")
    workspace, edges = Workspace(NET, 24, np), [0, *sorted(cuts), 24]

    def sums(lo, hi):
        gradient = np.empty(NET.size, np.float32)
        parts = NET.split(gradient)
        return loss_and_gradient_sums(NET.split(flat), X[lo:hi], y[lo:hi], out=parts, workspace=workspace), gradient

    shards = [sums(lo, hi) for lo, hi in itertools.pairwise(edges)]
    loss, gradient = sums(0, 24)
    assert sum(loss for loss, _ in shards) == pytest.approx(loss, rel=1e-5)
    np.testing.assert_allclose(sum(g.astype(np.float64) for _, g in shards), gradient, rtol=1e-4, atol=1e-4)


def test_a_shard_without_examples_gives_zeros(xp):
    gradient = xp.full(NET.size, xp.nan, xp.float32)
    loss = loss_and_gradient_sums(
        NET.split(xp.zeros(NET.size, xp.float32)),
        xp.empty((0, NET.features), xp.float32),
        xp.empty(0, xp.int64),
        out=NET.split(gradient),
        workspace=Workspace(NET, 3, xp),
    )
    assert loss == 0
    assert not to_host(gradient).any()


def test_forward_gives_activations_and_scores(xp):
    flat, X, _ = examples(6, dtype="float32")
    v = forward(NET.split(xp.asarray(flat)), xp.asarray(X), Workspace(NET, 9, xp))
    W1, b1, W2, b2 = NET.split(flat.astype(np.float64))
    h = np.maximum(X @ W1 + b1, 0)
    np.testing.assert_allclose(to_host(v.h), h, atol=1e-5)
    np.testing.assert_allclose(to_host(v.s), h @ W2 + b2, atol=1e-5)


@pytest.mark.parametrize("score", [0.0, 90.0, 1e4, 1e30])
def test_the_loss_is_right_at_extreme_scores(xp, score):
    net = Net(1, 1, 3)
    v = Workspace(net, 4, xp).views(4)
    v.s[...] = xp.asarray([[score, 0, 0], [score, 0, 0], [-score, 0, 0], [0, -score, score]], xp.float32)
    losses = to_host(LOSSES["softmax"].losses(v, xp.asarray([0, 1, 0, 1]), xp))
    rest = np.log1p(2 * np.exp(-score))
    far = np.log(np.exp(-score) + np.exp(-2 * score) + 1)
    expected = [rest, score + rest, score + np.log(2 + np.exp(-score)), 2 * score + far]
    np.testing.assert_allclose(losses, np.array(expected), rtol=1e-6, atol=1e-7)
    softmax = to_host(v.s)
    assert np.isfinite(softmax).all()
    np.testing.assert_allclose(softmax.sum(axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_feature_or_an_activation_that_is_not_finite_makes_the_loss_not_a_number(xp, value):
    """With two weights of either sign there are activations of both infinities, or of nothing but NaN."""
    flat, X, y = examples(4, dtype="float32")
    X[2, 1] = value
    with np.errstate(all="ignore"):
        loss = loss_and_gradient_sums(
            NET.split(xp.asarray(flat)),
            xp.asarray(X),
            xp.asarray(y),
            out=NET.split(xp.empty(NET.size, xp.float32)),
            workspace=Workspace(NET, 4, xp),
        )
    assert np.isnan(loss)


def test_loss_and_predictions_agree_with_an_independent_formula(xp):
    flat, X, y = examples(50, dtype="float32")
    losses, predicted, _ = measured(
        NET.split(xp.asarray(flat)), xp.asarray(X), xp.asarray(y), workspace=Workspace(NET, 64, xp)
    )
    np.testing.assert_allclose(to_host(losses), reference(NET, flat, X, y)[0], rtol=1e-5)
    probabilities = probabilities_of(flat, X)
    assert to_host(predicted).tolist() == probabilities.argmax(axis=1).tolist()


def test_the_losses_are_the_logarithms_of_the_probabilities():
    flat, X, y = examples(20, dtype="float32")
    probabilities = probabilities_of(flat, X)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(-np.log(probabilities[np.arange(20), y]), reference(NET, flat, X, y)[0], rtol=1e-4)


def test_a_workspace_serves_batches_of_changing_size(xp):
    """A smaller batch between two equal ones leaves nothing behind."""
    flat, X, y = examples(9, dtype="float32")
    workspace, results = Workspace(NET, 9, xp), []
    for count in (9, 4, 9, 1, 9):
        gradient = xp.empty(NET.size, xp.float32)
        loss = loss_and_gradient_sums(
            NET.split(xp.asarray(flat)),
            xp.asarray(X[:count]),
            xp.asarray(y[:count]),
            out=NET.split(gradient),
            workspace=workspace,
        )
        results.append((loss, to_host(gradient).tobytes()))
    assert results[0] == results[2] == results[4]
    assert len(set(results)) == 3


def test_split_gives_views_in_the_order_of_the_contract():
    flat = np.arange(NET.size, dtype=np.float32)
    parts = NET.split(flat)
    assert parts._fields == ("W1", "b1", "W2", "b2")
    assert [part.shape for part in parts] == [(5, 7), (7,), (7, 4), (4,)]
    assert NET.size == 5 * 7 + 7 + 7 * 4 + 4
    assert np.array_equal(np.concatenate([part.ravel() for part in parts]), flat)
    parts.b2[:] = -1
    assert (flat[-4:] == -1).all()


def test_initial_weights_are_he_normal_and_biases_zero():
    net = Net(400, 300, 200)
    W1, b1, W2, b2 = net.split(net.initial(seed=3))
    assert W1.dtype == np.float32
    assert not b1.any()
    assert not b2.any()
    assert W1.std() == pytest.approx((2 / 400) ** 0.5, rel=0.01)
    assert W2.std() == pytest.approx((2 / 300) ** 0.5, rel=0.01)
    assert abs(W1.mean()) < 4 * W1.std() / W1.size**0.5
    assert abs(np.corrcoef(W1.ravel()[: W2.size], W2.ravel())[0, 1]) < 0.02


def test_scale_is_the_standard_deviation_of_both_layers():
    W1, b1, W2, b2 = (net := Net(400, 300, 200)).split(net.initial(seed=3, scale=1e-3))
    assert W1.std() == pytest.approx(1e-3, rel=0.01)
    assert W2.std() == pytest.approx(1e-3, rel=0.01)
    assert not b1.any()
    assert not b2.any()


def test_initial_weights_are_a_function_of_seed_and_layer_alone():
    assert np.array_equal(NET.initial(5), NET.initial(5))
    assert not np.array_equal(NET.initial(5), NET.initial(6))
    assert not np.array_equal(NET.initial(0), NET.initial(2**63 - 1))
    wider = Net(50, 7, 4)
    assert np.array_equal(wider.split(wider.initial(5)).W2, NET.split(NET.initial(5)).W2)
    first = NET.split(NET.initial(5, scale=1.0))
    assert not np.array_equal(first.W1.ravel()[:28], first.W2.ravel())


def test_without_a_hidden_layer_the_scores_are_those_of_a_linear_model(xp):
    net = Net(5, 0, 4)
    assert net.shapes == ((5, 0), (0,), (5, 4), (4,))
    assert (net.size, net.widths, NET.widths) == (24, "5-4", "5-7-4")
    flat, X, _ = examples(6, net, dtype="float32")
    v = forward(net.split(xp.asarray(flat)), xp.asarray(X), Workspace(net, 9, xp))
    W, b = flat[:20].reshape(5, 4).astype("f8"), flat[20:]
    np.testing.assert_allclose(to_host(v.s), X @ W + b, atol=1e-5)


def test_a_net_without_a_hidden_layer_begins_with_zeros_or_at_the_given_scale():
    net = Net(300, 0, 40)
    assert not net.initial(3).any()
    drawn = net.split(net.initial(3, scale=0.5))
    assert drawn.W2.std() == pytest.approx(0.5, rel=0.02)
    assert not drawn.b2.any()


def test_initial_weights_are_those_that_were_drawn_when_this_was_written():
    W1 = [0.15929547, -1.77418852, 1.32651186, 1.20480907]
    W2 = [-0.74401915, -0.01442461, 0.50539398, -1.752226]
    np.testing.assert_allclose(Net(2, 2, 2).initial(0), [*W1, 0, 0, *W2, 0, 0], rtol=1e-6)
