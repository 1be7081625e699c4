"""Activations against independent formulas in float64, at extreme values, and the scale of initial weights."""

from __future__ import annotations

import math

import numpy as np
import pytest

from distsgd.core.activations import ACTIVATIONS
from distsgd.core.backend import to_host
from distsgd.core.net import Net

FORMULAS = {
    "relu": lambda a: max(a, 0.0),
    "leaky_relu": lambda a: a if a > 0 else 0.01 * a,
    "elu": lambda a: a if a > 0 else math.expm1(a),
    "gelu": lambda a: a * 0.5 * math.erfc(-a / math.sqrt(2)),
    "tanh": math.tanh,
    "sigmoid": lambda a: 1 / (1 + math.exp(-a)) if a > -700 else 0.0,
}
DERIVATIVES = {
    "relu": lambda a: float(a > 0),
    "leaky_relu": lambda a: 1.0 if a > 0 else 0.01,
    "elu": lambda a: 1.0 if a > 0 else math.exp(a),
    "gelu": lambda a: 0.5 * math.erfc(-a / math.sqrt(2)) + a * math.exp(-min(a * a, 1400) / 2) / math.sqrt(2 * math.pi),
    "tanh": lambda a: 1 - math.tanh(a) ** 2,
    "sigmoid": lambda a: FORMULAS["sigmoid"](a) * (1 - FORMULAS["sigmoid"](a)),
}
POINTS = [*np.linspace(-12, 12, 481), 1e-3, -1e-3, 1e-20, -1e-20, 40.0, -40.0, 1e4, -1e4, 1e30, -1e30]


def passed(name: str, values, xp, dtype="float32") -> tuple[np.ndarray, np.ndarray]:
    """Return f(a) and f'(a) of some values, by the forward pass and a backward pass of ones."""
    h = xp.asarray(np.array(values, dtype)[None])
    kept, scratch, dh = xp.full(h.shape, xp.nan, dtype), xp.full(h.shape, xp.nan, dtype), xp.ones(h.shape, dtype)
    with np.errstate(all="ignore"):
        ACTIVATIONS[name].forward(h, kept, scratch, xp)
        ACTIVATIONS[name].backward(dh, h, kept, xp)
    return to_host(h)[0], to_host(dh)[0]


def test_every_activation_has_formulas_here():
    assert list(FORMULAS) == list(DERIVATIVES) == list(ACTIVATIONS)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_values_and_derivatives_agree_with_independent_formulas(xp, name):
    f, df = passed(name, POINTS, xp)
    np.testing.assert_allclose(f, [FORMULAS[name](a) for a in POINTS], rtol=3e-6, atol=3e-7)
    np.testing.assert_allclose(df, [DERIVATIVES[name](a) for a in POINTS], rtol=3e-6, atol=1e-6)


def test_gelu_is_within_a_few_billionths_of_the_error_functions_form():
    values = np.linspace(-9, 9, 4001)
    f, df = passed("gelu", values, np, "float64")
    assert np.abs(f - [FORMULAS["gelu"](a) for a in values]).max() < 1e-8
    assert np.abs(df - [DERIVATIVES["gelu"](a) for a in values]).max() < 1e-8


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_what_is_not_finite_is_not_hidden(xp, name, value):
    """An activation that saturates would turn an overflow into an ordinary number."""
    f, _ = passed(name, [1.0, value, -2.0], xp)
    assert np.isfinite(f).tolist() == [True, False, True]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_keep_their_scale_through_initial_weights(name):
    """He's and Glorot's purpose: over two wide layers the spread neither vanishes nor explodes."""
    net = Net(400, 400, 400, activation=name)
    W1, _, W2, _ = net.split(net.initial(0))
    glorot = name in ("tanh", "sigmoid")
    assert W1.std() == pytest.approx((2 / (800 if glorot else 400)) ** 0.5, rel=0.02)
    X = np.random.default_rng(1).normal(size=(200, 400)).astype("f4")
    h, _ = passed(name, (X @ W1).ravel(), np)
    assert 0.3 < (h.reshape(200, 400) @ W2).std() < 2
