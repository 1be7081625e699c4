"""Update rules against independent formulas, schedules at their ends, bits that blocks and threads leave alone."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distsgd.config import OptimConfig
from distsgd.core import optim
from distsgd.core.net import Net
from distsgd.core.optim import l2_loss, learning_rate
from distsgd.engine import aggregation
from distsgd.engine.aggregation import Aggregation

NET = Net(13, 11, 5)
COUNT = 24
STEPS = 6
RULES = {
    "plain": {},
    "momentum": {"momentum": 0.9},
    "nesterov": {"momentum": 0.9, "nesterov": True},
    "nesterov without momentum": {"nesterov": True},
}


def gradients_of_steps(seed: int = 0) -> np.ndarray:
    """Return gradient sums (steps, P) over COUNT examples."""
    return np.random.default_rng(seed).normal(0, COUNT, (STEPS, NET.size)).astype(np.float32)


def trained(config: OptimConfig, *, lr: float = 0.03, threads: int = 1, net: Net = NET) -> np.ndarray:
    """Return the parameters after some steps of the server's own arithmetic."""
    weights = net.initial(1)
    velocity = np.zeros_like(weights) if config.momentum else None
    server = Aggregation(net, 1, threads=threads)
    for gradient in gradients_of_steps():
        out, velocity_out = np.empty_like(weights), None if velocity is None else np.empty_like(weights)
        finite = server.update(
            {(0, 1): gradient},
            COUNT,
            weights,
            velocity,
            lr=lr,
            config=config,
            out=out,
            velocity_out=velocity_out,
        )
        assert finite
        weights, velocity = out, velocity_out
    return weights


def expected(config: OptimConfig, *, lr: float = 0.03) -> np.ndarray:
    """Return the same in float64, from the formulas and with whole matrices.

    Nesterov's is in its original form (Sutskever et al., 2013): the gradient belongs to the look-ahead point θ + μv,
    which is what the parameters of the code under test are.
    """
    W = NET.initial(1).astype(np.float64)
    is_weight = np.concatenate([np.full(math.prod(s), len(s) == 2) for s in NET.shapes])
    v, mu, theta = np.zeros_like(W), config.momentum, W.copy()
    for total in gradients_of_steps().astype(np.float64):
        g = total / COUNT + 2 * config.l2 * np.where(is_weight, W, 0)
        if config.clip_norm is not None:
            g *= min(1.0, config.clip_norm / np.sqrt((g * g).sum()))
        if not mu:
            W = W - lr * g
        elif not config.nesterov:
            v = mu * v - lr * g
            W = W + v
        else:
            v = mu * v - lr * g
            theta = theta + v
            W = theta + mu * v
    return W


@pytest.mark.parametrize("l2", [0.0, 0.01])
@pytest.mark.parametrize("clip_norm", [None, 0.5, 1e6])
@pytest.mark.parametrize("rule", RULES)
def test_updates_agree_with_independent_formulas(rule, l2, clip_norm):
    config = OptimConfig(l2=l2, clip_norm=clip_norm, **RULES[rule])
    np.testing.assert_allclose(trained(config), expected(config), rtol=2e-6, atol=2e-6)


def test_each_option_changes_the_result():
    """So that the agreement above is not one of formulas that leave the option out."""
    variants = [
        OptimConfig(l2=l2, clip_norm=clip_norm, **rule)
        for l2 in (0.0, 0.01)
        for clip_norm in (None, 0.5)
        for name, rule in RULES.items()
        if name != "nesterov without momentum"
    ]
    results = [trained(config) for config in variants]
    for i, one in enumerate(results):
        for other in results[:i]:
            assert np.abs(one - other).max() > 1e-4


@pytest.mark.parametrize("rule", RULES)
def test_a_weak_l2_at_a_low_learning_rate_is_not_rounded_away(rule):
    """2αλ may lie below float32's last bit before 1; what it takes off has still to be right, on average."""
    config = OptimConfig(l2=1e-6, **RULES[rule])
    net, lr, steps = Net(100, 100, 2), 0.01, 300
    weights = start = np.full(net.size, 0.9, np.float32)
    velocity = np.zeros_like(weights) if config.momentum else None
    server, rng = Aggregation(net, 1), np.random.default_rng(0)
    noise = rng.normal(0, 1e-3, (steps, net.size)).astype(np.float32)
    for gradient in noise - noise.mean(axis=0):
        out, velocity_out = np.empty_like(weights), None if velocity is None else np.empty_like(weights)
        server.update(
            {(0, 1): gradient}, 1, weights, velocity, lr=lr, config=config, out=out, velocity_out=velocity_out
        )
        weights, velocity = out, velocity_out
    drift = float((start - weights).astype(np.float64)[net.bounds.W1].mean())
    gain = sum((1 - config.momentum ** (steps - t)) / (1 - config.momentum) for t in range(steps))
    assert drift == pytest.approx(2 * lr * config.l2 * 0.9 * gain, rel=0.15)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("block", [1, 7, 64, 100_000])
@pytest.mark.parametrize("rule", RULES)
def test_neither_blocks_nor_threads_change_the_bits(monkeypatch, rule, block, threads):
    config = OptimConfig(l2=0.01, **RULES[rule])
    whole = trained(config)
    monkeypatch.setattr(optim, "BLOCK", block)
    monkeypatch.setattr(aggregation, "THREADED", 1)
    assert np.array_equal(trained(config, threads=threads), whole)


@pytest.mark.parametrize("block", [1, 7, 64, 100_000])
def test_blocks_cover_every_parameter_once_and_know_the_biases(monkeypatch, block):
    monkeypatch.setattr(optim, "BLOCK", block)
    covered, decays = np.zeros(NET.size, int), np.ones(NET.size, bool)
    for part, biases in optim.blocks(NET):
        assert part.stop - part.start <= block
        covered[part] += 1
        for bias in biases:
            decays[part][bias] = False
    assert (covered == 1).all()
    W1, b1, W2, b2 = NET.split(decays)
    assert W1.all()
    assert W2.all()
    assert not b1.any()
    assert not b2.any()


def test_clipping_is_the_same_for_any_number_of_threads(monkeypatch):
    monkeypatch.setattr(optim, "BLOCK", 16)
    monkeypatch.setattr(aggregation, "THREADED", 1)
    config = OptimConfig(l2=0.01, clip_norm=0.5, momentum=0.5)
    assert len({trained(config, threads=threads).tobytes() for threads in (1, 2, 3)}) == 1


def test_a_gradient_whose_square_float32_does_not_hold_is_clipped_and_not_dropped():
    gradient, weights = np.full(NET.size, 1e25, np.float32), np.zeros(NET.size, np.float32)
    out, config = np.empty(NET.size, np.float32), OptimConfig(l2=0, clip_norm=2.0)
    assert Aggregation(NET, 1).update(
        {(0, 1): gradient}, 1, weights, None, lr=1.0, config=config, out=out, velocity_out=None
    )
    np.testing.assert_allclose(out, -2 / NET.size**0.5, rtol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [0, NET.size // 2, NET.size - 1])
def test_an_update_says_whether_all_parameters_are_finite(bad, where):
    gradient, weights = np.ones(NET.size, np.float32), np.ones(NET.size, np.float32)
    server, out = Aggregation(NET, 1), np.empty(NET.size, np.float32)

    def update(gradient):
        return server.update(
            {(0, 1): gradient}, 1, weights, None, lr=0.1, config=OptimConfig(), out=out, velocity_out=None
        )

    assert update(gradient)
    assert update(gradient * np.float32(1e30))  # whose square float32 does not hold
    gradient[where] = bad
    assert not update(gradient)


def test_the_l2_loss_is_of_the_weights_alone(monkeypatch):
    flat = np.random.default_rng(0).normal(size=NET.size).astype(np.float32)
    W1, b1, W2, b2 = NET.split(flat)
    loss = 0.3 * ((W1.astype(np.float64) ** 2).sum() + (W2.astype(np.float64) ** 2).sum())
    assert l2_loss(NET, flat, 0.3) == pytest.approx(loss, rel=1e-6)
    b1[:], b2[:] = 1e9, 1e9
    assert l2_loss(NET, flat, 0.3) == pytest.approx(loss, rel=1e-6)
    assert l2_loss(NET, flat, 0.0) == 0


def rates(total: int, steps_per_epoch: int = 10, **options) -> list[float]:
    config = OptimConfig(lr=0.4, **options)
    return [learning_rate(config, t, steps_per_epoch=steps_per_epoch, total_steps=total) for t in range(total)]


def test_a_constant_rate_is_constant():
    assert rates(30) == [0.4] * 30


def test_warm_up_rises_in_equal_steps_to_the_rate():
    found = rates(10, warmup_steps=4)
    np.testing.assert_allclose(found, [0.08, 0.16, 0.24, 0.32] + [0.4] * 6)


def test_step_decay_falls_at_its_epochs():
    found = rates(60, schedule="step", decay_every=2, decay_factor=0.5)
    assert found == [0.4] * 20 + [0.2] * 20 + [0.1] * 20
    half = rates(20, schedule="step", decay_every=0.5, decay_factor=0.1)
    np.testing.assert_allclose(half, [0.4] * 5 + [0.04] * 5 + [0.004] * 5 + [0.0004] * 5)


def test_cosine_goes_from_the_rate_to_the_final_one():
    found = rates(21, schedule="cosine", final_lr=0.1)
    assert found[0] == 0.4
    assert found[-1] == pytest.approx(0.1, rel=1e-12)
    assert found[10] == pytest.approx((0.4 + 0.1) / 2)
    assert all(a > b for a, b in itertools.pairwise(found))


def test_cosine_begins_after_warm_up():
    found = rates(25, schedule="cosine", warmup_steps=4)
    np.testing.assert_allclose(found[:4], [0.08, 0.16, 0.24, 0.32])
    assert found[4] == 0.4
    assert found[-1] == pytest.approx(0, abs=1e-15)
    assert found[4 + 10] == pytest.approx(0.2)


@given(
    total=st.integers(1, 40),
    warmup=st.integers(0, 50),
    schedule=st.sampled_from(["constant", "step", "cosine"]),
    steps_per_epoch=st.integers(1, 50),
)
def test_a_rate_is_never_negative_nor_above_its_maximum(total, warmup, schedule, steps_per_epoch):
    found = rates(total, steps_per_epoch, schedule=schedule, warmup_steps=warmup, decay_every=1.5)
    assert all(0 <= rate <= 0.4 for rate in found)
    assert all(rate > 0 for rate in found[:-1])
