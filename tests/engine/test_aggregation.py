"""The server's arithmetic: equal bits for any number of threads, and agreement with plain formulas."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distsgd.config import OptimConfig
from distsgd.core import optim, reduction
from distsgd.core.net import Net
from distsgd.core.reduction import Node
from distsgd.core.update_rules import Step
from distsgd.engine.aggregation import THREADED, Aggregation

LARGE = Net(1100, 1000, 3)
SMALL = Net(7, 5, 3)

CONFIGS = {
    "plain": OptimConfig(l2=0),
    "l2": OptimConfig(l2=0.01),
    "momentum": OptimConfig(momentum=0.9, l2=0.01),
    "nesterov": OptimConfig(momentum=0.9, nesterov=True),
    "clipped": OptimConfig(clip_norm=0.05, l2=0.01),
}


def vectors(count: int, net: Net, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(net.size, np.float32) for _ in range(count)]


@np.errstate(all="ignore")  # as in the server
def updated(net: Net, gradients: dict[Node, np.ndarray], config: OptimConfig, threads: int = 1, count: int = 40):
    """Return whether the result is finite, the new weights and the new velocity."""
    weights, velocity = vectors(2, net, seed=1)
    num_shards = max(hi for _, hi in gradients)
    out, velocity_out = np.full((2, net.size), np.nan, np.float32)
    slots, slots_out = {"velocity": velocity}, {"velocity": velocity_out}
    if not config.momentum:
        slots, slots_out = {}, {}
    sums, plan = list(gradients.values()), reduction.additions(tuple(gradients), (0, num_shards))
    aggregation = Aggregation(config, list(optim.blocks(net)), num_shards, xp=np, threads=threads)
    for _ in range(2):  # the second time in used buffers
        clip = 1.0
        if config.clip_norm is not None:
            clip = optim.clip_factor(config, aggregation.squares(sums, plan, count, weights))
        step = Step(count, 0.1, clip, 1)
        finite = aggregation.update(sums, plan, weights, slots, step=step, out=out, slots_out=slots_out)
    return finite, out, velocity_out


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_any_number_of_threads_gives_the_same_bits(config):
    assert LARGE.size > THREADED
    left, right = vectors(2, LARGE)
    gradients = {(0, 2): left, (2, 3): right}
    expected = updated(LARGE, gradients, config)
    assert expected[0]
    for threads in (2, 3, 16):
        found = updated(LARGE, gradients, config, threads)
        assert found[1].tobytes() == expected[1].tobytes()
        assert found[2].tobytes() == expected[2].tobytes()


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("net", [SMALL, LARGE], ids=["small", "large"])
def test_an_update_agrees_with_the_formulas(config, net):
    gradient = vectors(1, net)[0]
    finite, out, velocity_out = updated(net, {(0, 1): gradient}, config, threads=2)
    assert finite
    W, v = (vector.astype("f8") for vector in vectors(2, net, seed=1))
    regularised = W.copy()
    for bias in (net.bounds.b1, net.bounds.b2):
        regularised[bias] = 0
    g = gradient.astype("f8") / 40 + 2 * config.l2 * regularised
    if config.clip_norm is not None:
        assert np.linalg.norm(g) > config.clip_norm
        g *= config.clip_norm / np.linalg.norm(g)
    v = config.momentum * v - 0.1 * g
    W += config.momentum * v - 0.1 * g if config.nesterov else v if config.momentum else -0.1 * g
    np.testing.assert_allclose(out, W, rtol=1e-5, atol=1e-6)
    if config.momentum:
        np.testing.assert_allclose(velocity_out, v, rtol=1e-5, atol=1e-6)


@settings(max_examples=60)
@given(st.integers(1, 40), st.data())
def test_any_division_into_subtrees_gives_the_serial_sum(num_shards, data):
    leaves = {(k, k + 1): vector for k, vector in enumerate(vectors(num_shards, SMALL, seed=num_shards))}
    cuts = sorted(data.draw(st.sets(st.integers(1, num_shards), max_size=6)) | {0, num_shards})
    runs = [range(lo, hi) for lo, hi in itertools.pairwise(cuts)]
    held = {
        root: reduction.combine(
            [leaves[(k, k + 1)] for k in range(*root)],
            reduction.additions(tuple((k, k + 1) for k in range(*root)), root),
            lambda a, b, _: a + b,
        )
        for run in runs
        for root in reduction.maximal_subtrees(run, num_shards)
    }
    before = {node: gradient.copy() for node, gradient in held.items()}
    config = CONFIGS["momentum"]
    expected = updated(SMALL, leaves, config)
    found = updated(SMALL, held, config)
    assert found[1].tobytes() == expected[1].tobytes()
    assert found[2].tobytes() == expected[2].tobytes()
    assert all(np.array_equal(before[node], held[node]) for node in held), "gradients are the workers' memory"


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("where", [0, SMALL.size - 1])
def test_non_finite_values_are_reported(value, where):
    gradient = vectors(1, SMALL)[0]
    gradient[where] = value
    assert not updated(SMALL, {(0, 1): gradient}, CONFIGS["plain"])[0]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("where", [0, optim.BLOCK, LARGE.size // 2, LARGE.size - 1])
def test_every_thread_checks_its_blocks(threads, where):
    gradient = vectors(1, LARGE)[0]
    gradient[where] = np.nan
    assert not updated(LARGE, {(0, 1): gradient}, CONFIGS["plain"], threads)[0]


def test_large_values_count_as_finite_although_their_squares_overflow():
    gradient = np.full(SMALL.size, 1e30, np.float32)
    finite, out, _ = updated(SMALL, {(0, 1): gradient}, CONFIGS["plain"])
    assert finite
    assert np.isfinite(out).all()
