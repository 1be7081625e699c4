"""Elementary functions, powers, schedules, initial weights and statistics against references of libm and Python."""

from __future__ import annotations

import hashlib
import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distsgd.config import OptimConfig
from distsgd.core import schedules
from distsgd.core.backend import to_host
from distsgd.core.net import Net
from distsgd.core.portable.elementary import Elementary
from distsgd.core.portable.initial import initial, normal_quantiles
from distsgd.core.portable.scalars import cos_of_half_turns, power
from distsgd.core.portable.schedules import SCHEDULES, learning_rate
from distsgd.data.normalization import Moments
from distsgd.data.portable_moments import PortableMoments

RNG = np.random.default_rng(0)
ANY = np.concatenate([RNG.uniform(-700, 700, 3000), RNG.uniform(-2, 2, 3000), RNG.normal(0, 1e-9, 300), [0.0, -0.0]])
POSITIVE = np.concatenate([np.exp(RNG.uniform(-600, 600, 3000)), RNG.uniform(0.5, 2, 3000), [1.0, 5e-308, 1e308]])
REFERENCES = {
    "exp": (math.exp, ANY, 1),
    "expm1": (math.expm1, ANY, 2),
    "log": (math.log, POSITIVE, 1),
    "log1p": (math.log1p, np.concatenate([np.abs(ANY), 1e-300 * POSITIVE[3000:6000]]), 2),
    "tanh": (math.tanh, ANY / 20, 3),
    "sigmoid": (lambda x: 1 / (1 + math.exp(-x)), ANY, 3),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_functions_are_within_a_few_units_of_the_last_place(xp, name):
    reference, values, ulps = REFERENCES[name]
    found = xp.asarray(values.copy())
    getattr(Elementary(xp, 1000), name)(found)
    expected = np.array([reference(x) for x in values.tolist()])
    assert (np.abs(to_host(found) - expected) <= ulps * np.spacing(np.abs(expected))).all()


@pytest.mark.parametrize("name", ["exp", "expm1", "log1p", "tanh", "sigmoid"])
def test_nan_stays_nan(xp, name):
    found = xp.asarray(np.array([1.0, np.nan, 0.5]))
    getattr(Elementary(xp, 3), name)(found)
    assert np.isnan(to_host(found)).tolist() == [False, True, False]


def test_functions_of_numbers_do_not_depend_on_their_neighbours():
    """Chunks of any size, at any place, give the same bits: there is no vector code with a tail of its own."""
    for name, (_, values, _) in REFERENCES.items():
        whole, single = values.copy(), values[:50].copy()
        getattr(Elementary(np, 10**6), name)(whole)
        for i in range(len(single)):
            getattr(Elementary(np, 1), name)(single[i : i + 1])
        assert single.tobytes() == whole[:50].tobytes()


@given(st.floats(0.5, 1, exclude_max=True), st.integers(0, 10**6))
def test_powers_are_those_of_libm(base, n):
    assert power(base, n) == pytest.approx(base**n, rel=1e-15 * (n + 1), abs=1e-300)


@given(st.floats(0, 1))
def test_cosines_are_those_of_libm(x):
    assert cos_of_half_turns(x) == pytest.approx(math.cos(math.pi * x), abs=4e-16)


@pytest.mark.parametrize("name", SCHEDULES)
def test_learning_rates_are_those_of_fast_arithmetic(name):
    assert SCHEDULES.keys() == schedules.SCHEDULES.keys()
    config = OptimConfig(schedule=name, lr=0.3, final_lr=0.001, warmup_steps=3, decay_every=0.5, decay_factor=0.7)
    for step in range(0, 100, 7):
        expected = schedules.learning_rate(config, step, steps_per_epoch=10, total_steps=90)
        assert learning_rate(config, step, steps_per_epoch=10, total_steps=90) == pytest.approx(expected, rel=1e-14)


def test_normal_quantiles_are_those_of_python():
    centred = np.concatenate([np.linspace(-0.4999, 0.4999, 501), [2.0**-53 - 0.5, 0.5 - 2.0**-53, 0.425, -0.425]])
    expected = [NormalDist().inv_cdf(0.5 + x) for x in centred.tolist()]
    np.testing.assert_allclose(normal_quantiles(centred), expected, rtol=1e-13, atol=3e-16)


def test_initial_weights_are_normal_and_always_these():
    flat = initial(Net(64, 100, 10), seed=1)
    W1, b1, W2, b2 = Net(64, 100, 10).split(flat)
    assert W1.std() == pytest.approx((2 / 64) ** 0.5, rel=0.02)
    assert abs(W1.mean()) < 0.01
    assert W2.std() == pytest.approx((2 / 100) ** 0.5, rel=0.05)
    assert not b1.any()
    assert not b2.any()
    assert hashlib.sha256(flat.tobytes()).hexdigest()[:16] == "f0646d637c28f20e"


@pytest.mark.parametrize("activation", ["leaky_relu", "tanh", "sigmoid"])
def test_initial_weights_have_the_scale_of_fast_arithmetic(activation):
    net = Net(300, 200, 50, activation=activation)
    assert initial(net, 0).std() == pytest.approx(net.initial(0).std(), rel=0.02)


def test_weights_begin_with_zeros_without_a_hidden_layer_and_a_scale():
    assert not initial(Net(5, 0, 3), 0).any()
    assert initial(Net(50, 0, 30), 0, 0.1).std() == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize("weighted", [False, True])
def test_statistics_are_those_of_fast_arithmetic_for_any_cut(weighted):
    rows = RNG.normal(3, 2, (700, 300)) * np.exp(RNG.uniform(-5, 5, 300))
    weights = RNG.uniform(0.5, 2, 700)
    found = []
    for kind, cuts in ((Moments, [300]), (PortableMoments, [1, 400]), (PortableMoments, [13, 14, 699])):
        moments = kind(300, weighted=weighted)
        for part, of_part in zip(np.split(rows, cuts), np.split(weights, cuts), strict=True):
            moments.add(part, of_part if weighted else None)
        found.append(moments.normalization(tuple(map(str, range(300)))))
    np.testing.assert_allclose(found[1].scale, found[0].scale, rtol=1e-13)
    np.testing.assert_allclose(found[1].shift, found[0].shift, rtol=1e-13)
    assert found[1].scale.tobytes() == found[2].scale.tobytes()
    assert found[1].shift.tobytes() == found[2].shift.tobytes()
