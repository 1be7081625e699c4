"""Update rules against independent formulas; the same bits for any blocks, owners and threads."""

from __future__ import annotations

import math

import numpy as np
import pytest

from distsgd.config import OptimConfig
from distsgd.core import optim
from distsgd.core.net import Net
from distsgd.core.optim import l2_loss
from distsgd.core.update_rules import Step, update_rule
from distsgd.engine import aggregation
from distsgd.engine.aggregation import Aggregation

NET = Net(13, 11, 5)
COUNT = 24
STEPS = 6
ALONE = (0,)
"""The plan of additions for a single gradient sum."""
RULES = {
    "plain": {},
    "adagrad": {"rule": "adagrad"},
    "rmsprop": {"rule": "rmsprop", "beta2": 0.8},
    "adam": {"rule": "adam", "beta1": 0.7, "beta2": 0.95, "epsilon": 1e-3},
    "adamw": {"rule": "adamw"},
    "decay": {"weight_decay": 0.1},
    "decay past momentum": {"weight_decay": 0.1, "momentum": 0.9},
    "momentum": {"momentum": 0.9},
    "nesterov": {"momentum": 0.9, "nesterov": True},
    "nesterov without momentum": {"nesterov": True},
}


def gradients_of_steps(seed: int = 0) -> np.ndarray:
    """Return gradient sums (steps, P) over COUNT examples."""
    return np.random.default_rng(seed).normal(0, COUNT, (STEPS, NET.size)).astype(np.float32)


def zeros(config: OptimConfig, net: Net = NET) -> dict[str, np.ndarray]:
    """Return the state that a rule begins with."""
    return {name: np.zeros(net.size, np.float32) for name in update_rule(config).slots}


def clip_of(config: OptimConfig, owners: list[Aggregation], gradient, weights) -> float:
    """Return the clip factor, from the squared norms that the blocks' owners find."""
    if config.clip_norm is None:
        return 1.0
    return optim.clip_factor(
        config, [square for owner in owners for square in owner.squares([gradient], ALONE, COUNT, weights)]
    )


def trained(config: OptimConfig, *, lr: float = 0.03, threads: int = 1, net: Net = NET, owners: int = 1) -> np.ndarray:
    """Return the parameters after some steps of the server's own arithmetic, its blocks dealt out to `owners`."""
    weights, slots, blocks = net.initial(1), zeros(config, net), list(optim.blocks(net))
    servers = [Aggregation(config, blocks[i::owners], 1, xp=np, threads=threads) for i in range(owners)]
    for number, gradient in enumerate(gradients_of_steps()):
        step = Step(COUNT, lr, clip_of(config, servers, gradient, weights), number + 1)
        out, slots_out = np.empty_like(weights), {name: np.empty_like(slot) for name, slot in slots.items()}
        for server in servers:
            assert server.update([gradient], ALONE, weights, slots, step=step, out=out, slots_out=slots_out)
        weights, slots = out, slots_out
    return weights


def expected(config: OptimConfig, *, lr: float = 0.03) -> np.ndarray:
    """Return the same in float64, from the formulas and with whole matrices.

    Nesterov's is in its original form (Sutskever et al., 2013): the gradient belongs to the look-ahead point θ + μv,
    which is what the parameters of the code under test are.
    """
    W = NET.initial(1).astype(np.float64)
    is_weight = np.concatenate([np.full(math.prod(s), len(s) == 2) for s in NET.shapes])
    v, mu, theta = np.zeros_like(W), config.momentum, W.copy()
    m, s = np.zeros_like(W), np.zeros_like(W)
    decay = config.weight_decay or 0.01 * (config.rule == "adamw" and config.weight_decay is None)
    for t, total in enumerate(gradients_of_steps().astype(np.float64), start=1):
        g = total / COUNT + 2 * config.l2 * np.where(is_weight, W, 0)
        if config.clip_norm is not None:
            g *= min(1.0, config.clip_norm / np.sqrt((g * g).sum()))
        decayed = lr * decay * np.where(is_weight, W, 0)
        if config.rule == "adagrad":
            s = s + g**2
            W = W - lr * g / (np.sqrt(s) + 1e-10)
        elif config.rule == "rmsprop":
            s = config.beta2 * s + (1 - config.beta2) * g**2
            W = W - lr * g / (np.sqrt(s) + 1e-8)
        elif config.rule in ("adam", "adamw"):
            beta1, beta2, epsilon = config.beta1 or 0.9, config.beta2 or 0.999, config.epsilon or 1e-8
            m, s = beta1 * m + (1 - beta1) * g, beta2 * s + (1 - beta2) * g**2
            W = W - lr * (m / (1 - beta1**t)) / (np.sqrt(s / (1 - beta2**t)) + epsilon)
        elif not mu:
            W = W - lr * g
        elif not config.nesterov:
            v = mu * v - lr * g
            W = W + v
        else:
            v = mu * v - lr * g
            theta = theta + v
            W = theta + mu * v
        W = W - decayed
    return W


@pytest.mark.parametrize("l2", [0.0, 0.01])
@pytest.mark.parametrize("clip_norm", [None, 0.5, 1e6])
@pytest.mark.parametrize("rule", RULES)
def test_updates_agree_with_independent_formulas(rule, l2, clip_norm):
    config = OptimConfig(l2=l2, clip_norm=clip_norm, **RULES[rule])
    rounding = 2e-6 if config.rule == "sgd" else 1e-5  # a quotient of small numbers rounds worse than a sum
    np.testing.assert_allclose(trained(config), expected(config), rtol=rounding, atol=rounding)


def test_each_option_changes_the_result():
    """Otherwise the formulas above could agree while ignoring the option."""
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


@pytest.mark.parametrize("rule", ["plain", "momentum", "nesterov"])
def test_a_weak_l2_at_a_low_learning_rate_is_not_rounded_away(rule):
    """2αλ may lie below float32's last bit before 1; what it takes off has still to be right, on average."""
    config = OptimConfig(l2=1e-6, **RULES[rule])
    net, lr, steps = Net(100, 100, 2), 0.01, 300
    weights = start = np.full(net.size, 0.9, np.float32)
    slots, rng = zeros(config, net), np.random.default_rng(0)
    server = Aggregation(config, list(optim.blocks(net)), 1, xp=np)
    noise = rng.normal(0, 1e-3, (steps, net.size)).astype(np.float32)
    for number, gradient in enumerate(noise - noise.mean(axis=0)):
        out, slots_out = np.empty_like(weights), {name: np.empty_like(slot) for name, slot in slots.items()}
        step = Step(1, lr, 1.0, number + 1)
        server.update([gradient], ALONE, weights, slots, step=step, out=out, slots_out=slots_out)
        weights, slots = out, slots_out
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


@pytest.mark.parametrize("clip_norm", [None, 0.5])
@pytest.mark.parametrize("owners", [2, 3])
@pytest.mark.parametrize("rule", RULES)
def test_owners_of_some_blocks_each_give_the_bits_of_one(monkeypatch, rule, owners, clip_norm):
    monkeypatch.setattr(optim, "BLOCK", 31)
    config = OptimConfig(l2=0.01, clip_norm=clip_norm, **RULES[rule])
    assert np.array_equal(trained(config, owners=owners), trained(config))


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


@pytest.mark.parametrize("rule", ["adagrad", "rmsprop", "adam", "adamw"])
def test_a_gradient_whose_square_float32_does_not_hold_is_not_applied(rule):
    """The squares would be infinite from then on, and every later quotient 0."""
    config = OptimConfig(rule=rule)
    gradient, weights = np.ones(NET.size, np.float32), np.ones(NET.size, np.float32)
    server = Aggregation(config, list(optim.blocks(NET)), 1, xp=np)
    for largest, finite in [(1e18, True), (1e25, False)]:
        gradient[3] = largest
        out, state, new = np.empty_like(weights), zeros(config), zeros(config)
        step = Step(1, 0.1, 1.0, 1)
        with np.errstate(all="ignore"):  # as in the server
            assert server.update([gradient], ALONE, weights, state, step=step, out=out, slots_out=new) is finite


@np.errstate(all="ignore")  # as in the server
def test_a_gradient_whose_square_float32_does_not_hold_is_clipped_and_not_dropped():
    gradient, weights = np.full(NET.size, 1e25, np.float32), np.zeros(NET.size, np.float32)
    out, config = np.empty(NET.size, np.float32), OptimConfig(l2=0, clip_norm=2.0)
    server = Aggregation(config, list(optim.blocks(NET)), 1, xp=np)
    clip = optim.clip_factor(config, server.squares([gradient], ALONE, 1, weights))
    assert server.update([gradient], ALONE, weights, {}, step=Step(1, 1.0, clip, 1), out=out, slots_out={})
    np.testing.assert_allclose(out, -2 / NET.size**0.5, rtol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [0, NET.size // 2, NET.size - 1])
def test_an_update_says_whether_all_parameters_are_finite(bad, where):
    gradient, weights = np.ones(NET.size, np.float32), np.ones(NET.size, np.float32)
    server, out = Aggregation(OptimConfig(), list(optim.blocks(NET)), 1, xp=np), np.empty(NET.size, np.float32)

    @np.errstate(all="ignore")  # as in the server
    def update(gradient):
        return server.update([gradient], ALONE, weights, {}, step=Step(1, 0.1, 1.0, 1), out=out, slots_out={})

    assert update(gradient)
    assert update(gradient * np.float32(1e30))  # whose square float32 does not hold
    gradient[where] = bad
    assert not update(gradient)


def test_the_l2_loss_is_of_the_weights_alone(monkeypatch):
    flat = np.random.default_rng(0).normal(size=NET.size).astype(np.float32)
    W1, b1, W2, b2 = NET.split(flat)
    loss = 0.3 * ((W1.astype(np.float64) ** 2).sum() + (W2.astype(np.float64) ** 2).sum())
    assert l2_loss(NET, flat, 0.3, np) == pytest.approx(loss, rel=1e-6)
    b1[:], b2[:] = 1e9, 1e9
    assert l2_loss(NET, flat, 0.3, np) == pytest.approx(loss, rel=1e-6)
    assert l2_loss(NET, flat, 0.0, np) == 0
