"""The bound of 2^53 at its edges, by Python's integers, and bounds and grids of extreme numbers."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from benchmarks.portable_loop import CONFIGURATIONS, portable_hash
from distsgd.core.net import Net
from distsgd.core.portable.backprop import forward, loss_and_gradient_sums
from distsgd.core.portable.bounds import DataBounds, halved, stored_as_integers
from distsgd.core.portable.grids import NARROW_BITS, narrow_rounder, rounded, rounder
from distsgd.core.portable.norms import column_squares
from distsgd.core.portable.step import Grids
from distsgd.core.portable.widths import BITS, balanced, exponent, finest
from distsgd.core.portable.workspace import PortableWorkspace

SIGNS = {
    "ones": lambda n: np.ones(n),
    "alternating": lambda n: 1.0 - 2.0 * (np.arange(n) % 2),
    "half and half": lambda n: np.where(np.arange(n) < n // 2, 1.0, -1.0),
}


@pytest.mark.parametrize("signs", SIGNS)
@pytest.mark.parametrize("n", [1, 2, 3, 1000, 4095, 4096, 4097, 2**20])
def test_sums_reach_the_bound_and_stay_exact(n, signs):
    """Operands as large and as fine as the widths allow, in any order, against integers."""
    total, (p, q) = exponent(n), balanced(exponent(n), 0, 0)
    assert total <= BITS + p + q
    a = SIGNS[signs](n)
    a[1::3] -= np.copysign(2.0**p, a[1::3])  # odd multiples of the quantum beside the largest number
    b = np.ones(n)
    b[::2] -= 2.0**q
    left, right = (a * 2.0**-p).astype(np.int64), (b * 2.0**-q).astype(np.int64)
    exact = int((left * right).sum())
    if n < 5000:
        assert exact == sum(x * y for x, y in zip(left.tolist(), right.tolist(), strict=True))
    rng = np.random.default_rng(n)
    for order in (np.arange(n), np.arange(n)[::-1], rng.permutation(n)):
        assert int(np.dot(a[order], b[order]) * 2.0 ** -(p + q)) == exact
        assert math.fsum(np.add.accumulate(a[order] * b[order])[-1:]) * 2.0 ** -(p + q) == exact
    if signs == "ones" and n & (n - 1) == 0 and n > 1:
        assert abs(exact) > 2.0 ** (BITS - 2)  # no bit is given away


@given(st.integers(1, 2**40), st.integers(-300, 300), st.integers(-300, 300), st.integers(-300, 300))
@example(1, 0, 0, 0)
def test_the_finest_grid_satisfies_the_bound_and_the_next_does_not(n, quantum, top_a, top_b):
    total = exponent(n) + top_a
    q = finest(total, quantum, top_b)
    assert total + top_b <= BITS + quantum + q
    assert total + top_b > BITS + quantum + q - 1 or q == top_b - 50


@given(st.floats(0, 1e300))
@example(2.0**-1074)
@example(1.0)
@example(np.nextafter(1.0, 2.0))
def test_exponents_bound_from_above(x):
    e = exponent(x)
    assert x <= math.ldexp(1.0, e)
    assert not x or x > math.ldexp(1.0, e - 1) or e < -1073


@given(st.integers(-600, 600), st.floats(-(2.0**50), 2.0**50))
def test_two_additions_round_to_the_grid(q, steps):
    x = math.ldexp(steps, q)
    found = rounded(np.array([x]), q, np.empty(1), np)[0]
    assert found == math.ldexp(round(math.ldexp(x, -q)), q)
    assert math.isinf(math.inf + rounder(q) - rounder(q))


@given(st.integers(-100, 78), st.floats(-1.0, 1.0, width=32), st.sampled_from([1.0, 0.5, 2.0**-12, 2.0**-22]))
@example(0, 1.0, 1.0)
@example(0, -1.0, 1.0)
@example(0, 0.5, 2.0**-22)
@example(0, -1.5 * 2.0**-21, 1.0)
def test_float32_rounds_to_the_same_grid(q, x, scale):
    X = np.array([x], np.float32) * np.float32(scale * 2.0 ** (q + NARROW_BITS))
    M = np.float32(narrow_rounder(q))
    assert float((X + M - M)[0]) == rounded(X.astype(np.float64), q, np.empty(1), np)[0]


@pytest.mark.parametrize("kind", ["even", "ill-scaled", "far apart", "huge"])
@pytest.mark.parametrize("features", [3, 300, 3000])
def test_features_rounded_in_float32_are_those_rounded_in_float64(kind, features):
    rng, net = np.random.default_rng(3), Net(features, 4, 3)
    X = rng.standard_normal((70, features)).astype(np.float32)
    low, high = {"even": (0, 1), "ill-scaled": (-40, 30), "far apart": (-140, 120), "huge": (122, 123)}[kind]
    X *= np.exp2(np.linspace(low, high - 1, features).round()).astype(np.float32)
    grids, workspace = Grids(net, DataBounds.of(X), 256), PortableWorkspace(net, 70, np)
    assert grids.fits_float32 == (kind in ("even", "ill-scaled"))
    v, of_step, found = workspace.views(70), grids.of(net.split(net.initial(0))), []
    for narrow in (grids.fits_float32, False):
        grids.fits_float32 = narrow
        forward(net.split(net.initial(0)), X, of_step, workspace)
        found.append(v.X.tobytes())
    assert found[0] == found[1]


@given(st.integers(1, 400), st.integers(1, 5), st.integers(0, 10))
def test_lengths_of_columns_are_bounds(m, k, seed):
    rng = np.random.default_rng(seed)
    W = (rng.standard_normal((m, k)) * np.exp2(rng.integers(-80, 60, (m, k)))).astype(np.float32)
    exact = [math.fsum(float(x) ** 2 for x in column) for column in W.T]
    found = column_squares(W, np)
    assert (found >= exact).all()
    assert (found <= np.array(exact) * 1.001 + 1e-35).all()


def test_halves_are_added_in_an_order_that_the_length_determines():
    values = np.random.default_rng(0).standard_normal((13, 3)) * 1e9
    whole = halved(values.copy())
    assert halved(values[:, :1].copy())[0] == whole[0]
    np.testing.assert_allclose(whole, values.sum(axis=0), rtol=1e-12)


def test_bounds_do_not_depend_on_cuts_and_go_through_json():
    rng = np.random.default_rng(1)
    for X in (
        rng.standard_normal((50, 7)).astype(np.float32),
        rng.integers(0, 256, (50, 7)).astype(np.uint8),
        np.concatenate([np.zeros((20, 7)), rng.integers(-9, 9, (30, 7)) / 8]).astype(np.float32),
    ):
        whole = DataBounds.of(X)
        for cut in (1, 20, 49):
            parts = DataBounds.of(X[cut:]).merged(DataBounds.of(X[:cut]))
            assert parts == whole
        assert DataBounds.from_json(whole.to_json()) == whole
    assert whole.grid == -3
    with pytest.raises(ValueError, match="integers"):
        whole.merged(DataBounds.of(np.zeros((2, 7), np.uint8)))


def test_only_narrow_integers_with_one_factor_are_taken_as_they_are_stored():
    assert stored_as_integers("uint8", shifted=False, scales=1)
    assert stored_as_integers(np.int16, shifted=False, scales=0)
    assert not stored_as_integers("int32", shifted=False, scales=0)
    assert not stored_as_integers("uint8", shifted=True, scales=1)
    assert not stored_as_integers("uint8", shifted=False, scales=7)


def lowest_bits(rows: np.ndarray) -> np.ndarray:
    """Return for each row the largest power of two that its numbers are multiples of, 1 if all are 0."""
    significands, exponents = np.frexp(rows)
    whole = (significands * 2.0**53).astype(np.int64)
    trailing = np.frexp((whole & -whole).astype(np.float64))[1] - 1
    found = np.where(rows != 0, exponents - 53 + trailing, 2000).min(axis=1)
    return np.ldexp(1.0, np.where(found == 2000, 0, found))


@settings(max_examples=60)
@given(
    sizes=st.tuples(st.integers(1, 300), st.integers(0, 40), st.integers(1, 9), st.integers(1, 80)),
    loss=st.sampled_from(["softmax", "hinge", "logistic", "squared"]),
    activation=st.sampled_from(["relu", "elu", "gelu", "tanh"]),
    scales=st.tuples(st.integers(-30, 30), st.integers(-30, 20)),
    constant=st.booleans(),
    kind=st.sampled_from(["float", "bytes", "ill-scaled"]),
    seed=st.integers(0, 9),
)
@example((256, 8, 2, 64), "softmax", "relu", (0, 0), True, "float", 0)
@example((255, 0, 8, 64), "hinge", "relu", (0, 0), True, "bytes", 0)
def test_every_product_of_a_step_is_exact(sizes, loss, activation, scales, constant, kind, seed):
    """Σ|a_i b_i| of each element is at most 2^53 of what all of its terms are multiples of, up to rows that are all
    the largest and weights that are all equal, where the bounds are reached."""
    (D, H, C, n), rng = sizes, np.random.default_rng(seed)
    net = Net(D, H, max(C, 2) if loss in ("softmax", "hinge") else C, activation=activation, loss=loss)
    X = np.ones((n, D)) if constant else rng.standard_normal((n, D))
    if kind == "ill-scaled":
        X *= np.exp2(rng.integers(-15, 15, D))
    X = np.full((n, D), 255, np.uint8) if kind == "bytes" else (X * 2.0 ** scales[0]).astype(np.float32)
    y = rng.integers(0, net.classes, n)
    if loss in ("logistic", "squared"):
        y = rng.integers(0, 2, (n, net.classes)).astype(np.float32)
    w = np.full(n, 3.0, np.float32) if constant else rng.uniform(1e-3, 5, n).astype(np.float32)
    flat = np.ones(net.size) if constant else rng.standard_normal(net.size)
    flat = (flat * 2.0 ** scales[1]).astype(np.float32)
    grids, workspace = Grids(net, DataBounds.of(X, y, w), n), PortableWorkspace(net, n, np)
    products = []

    def checked(A, B, out=None):
        unit = np.outer(lowest_bits(np.atleast_2d(A)), lowest_bits(B.T))
        products.append(float((np.abs(np.atleast_2d(A)) @ np.abs(B) / unit).max()))
        return np.dot(A, B, out=out)

    workspace.product, sums = checked, np.empty(net.size)
    loss_and_gradient_sums(
        net.split(flat), X, y, w, grids=grids.of(net.split(flat)), out=net.split(sums), workspace=workspace
    )
    assert len(products) == (7 if H else 3)
    assert max(products) <= 2.0**BITS


EXTREMES = {
    "zeros": (0.0, 0.0),
    "subnormal": (1e-45, 1e-44),
    "tiny": (1e-30, 1e-20),
    "huge": (1e30, 1e8),
    "infinite": (np.inf, 1.0),
    "not a number": (1.0, np.nan),
}


@pytest.mark.parametrize("hidden", [0, 6])
@pytest.mark.parametrize("kind", EXTREMES)
def test_extreme_numbers_give_the_sums_of_any_cut_or_nan(kind, hidden):
    x, w = EXTREMES[kind]
    rng, net = np.random.default_rng(2), Net(5, hidden, 3)
    X, y = (rng.uniform(-1, 1, (8, 5)) * x).astype(np.float32), rng.integers(0, 3, 8)
    X[0, 0] = x
    flat = (rng.uniform(-1, 1, net.size) * w).astype(np.float32)
    flat[-4] = w
    grids = Grids(net, DataBounds.of(X), 8).of(net.split(flat))
    workspace, sums = PortableWorkspace(net, 8, np), []
    for rows in (slice(0, 8), slice(0, 3), slice(3, 8)):
        out = np.empty(net.size)
        loss_and_gradient_sums(net.split(flat), X[rows], y[rows], grids=grids, out=net.split(out), workspace=workspace)
        sums.append(out + 0.0)
    if kind in ("infinite", "not a number"):
        assert not grids.finite
        assert np.isnan(sums[0]).all()
    else:
        assert np.isfinite(sums[0]).all()
        assert (sums[1] + sums[2]).tobytes() == sums[0].tobytes()


HASHES = {
    "784-64-10 relu softmax, bytes": "3ed44f86cd97910a",
    "200-48-7 gelu hinge, normal": "15600bf7b8696ea7",
    "50-32-3 tanh logistic, ill-scaled": "4eb870c90de2193f",
    "120-40-4 elu squared, normal": "64aeb422129dbe0e",
    "300-0-10 softmax, smoothed": "d3e0becbbf733e2f",
}
"""What every machine gives, since it was first written down."""


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_weights_are_those_of_every_machine(name):
    assert portable_hash(*CONFIGURATIONS[name], 8).startswith(HASHES[name])


@pytest.mark.slow
def test_kernels_and_threads_give_one_hash_where_default_arithmetic_gives_several():
    found, fast = set(), set()
    for kernel in ("Prescott", "Nehalem", "Sandybridge", "Haswell", "Zen", "SkylakeX"):
        for threads in ("1", "2"):
            variables = {"OPENBLAS_CORETYPE": kernel, "OPENBLAS_NUM_THREADS": threads}
            command = [sys.executable, "-m", "benchmarks.portable_loop", "--fast", "--first", "2"]
            root = Path(__file__).parents[3]
            done = subprocess.run(
                command, env=os.environ | variables, cwd=root, capture_output=True, text=True, timeout=60, check=False
            )
            if done.returncode == 0:  # else the processor cannot run it
                portable, _, default = done.stdout.partition('"fast"')
                found.add(portable)
                fast.add(default)
    assert len(found) == 1
    assert len(fast) > 1
