"""Intervals and p-values agree with SciPy's, and with what they promise."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from distsgd.compare.statistics import (
    ENOUGH,
    LEVEL,
    RESAMPLES,
    expanded_level,
    holm,
    interval,
    paired,
    sign_flip_p,
    smallest_p,
    summary,
)

numbers = st.floats(-1e3, 1e3, allow_nan=False).map(lambda value: round(value, 3))


@given(st.lists(numbers, min_size=1, max_size=10))
def test_the_exact_p_is_the_share_of_all_signs(differences):
    observed = abs(math.fsum(differences))
    sums = [abs(math.fsum(s * d for s, d in zip(signs, differences, strict=True))) for signs in _signs(differences)]
    expected = sum(total >= observed - 1e-9 * (1 + observed) for total in sums) / len(sums)
    assert sign_flip_p(differences) == pytest.approx(expected)


def _signs(differences):
    return itertools.product((1, -1), repeat=len(differences))


@pytest.mark.parametrize("count", [2, 5, 6, 9, 12])
def test_the_exact_p_is_scipys(count):
    rng = np.random.default_rng(count)
    differences = rng.normal(0.4, 1.0, count)
    found = stats.permutation_test(
        (differences,),
        lambda x, axis: np.mean(x, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf,
    )
    assert sign_flip_p(differences) == pytest.approx(found.pvalue)


def test_the_p_of_many_pairs_is_near_that_of_the_normal_distribution():
    rng = np.random.default_rng(3)
    for count in (30, 60):
        differences = rng.normal(0.3, 1.0, count)
        z = abs(differences.sum()) / math.sqrt((differences**2).sum())
        assert sign_flip_p(differences) == pytest.approx(2 * stats.norm.sf(z), rel=0.25)


@given(st.lists(numbers, min_size=2, max_size=12), st.floats(0.01, 100))
def test_p_does_not_depend_on_scale_sign_or_order(differences, scale):
    p = sign_flip_p(differences)
    assert smallest_p(len(differences)) <= p + 1e-12
    assert p <= 1
    assert sign_flip_p([-d for d in reversed(differences)]) == pytest.approx(p)
    assert sign_flip_p([d * 2**10 for d in differences]) == pytest.approx(p)


def test_six_pairs_are_the_fewest_that_come_to_five_percent():
    assert smallest_p(ENOUGH) < 0.05 <= smallest_p(ENOUGH - 1)
    assert sign_flip_p([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]) == 2 / 2**6
    assert sign_flip_p([0.1, 0.2, 0.3, 0.4, 0.5]) == 2 / 2**5
    assert sign_flip_p([0.0, 0.0, 0.0]) == 1.0


@pytest.mark.parametrize("count", [2, 3, 6, 20, 100])
def test_the_interval_is_scipys_at_the_expanded_level(count):
    values = np.random.default_rng(count).exponential(2.0, count)
    expected = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=expanded_level(count),
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert interval(values) == pytest.approx((expected.low, expected.high), rel=1e-12)
    assert interval(values.tolist()) == interval(values)  # the same for the same values


def test_many_values_have_the_plain_level_and_the_interval_of_the_normal_distribution():
    assert expanded_level(10_000) == pytest.approx(LEVEL, abs=1e-3)
    values = np.random.default_rng(1).normal(5, 2, 400)
    low, high = interval(values)
    expected = stats.norm.interval(LEVEL, values.mean(), values.std(ddof=1) / math.sqrt(len(values)))
    assert (low, high) == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize(
    ("draw", "count", "mean"),
    [
        (lambda rng, n: rng.normal(0.3, 1.0, n), 8, 0.3),
        (lambda rng, n: rng.normal(0.0, 2.0, n), 12, 0.0),
        (lambda rng, n: rng.uniform(-1, 2, n), 10, 0.5),
        (lambda rng, n: rng.laplace(1.0, 1.0, n), 20, 1.0),
    ],
    ids=["normal of 8", "normal of 12", "uniform of 10", "Laplace of 20"],
)
def test_about_95_of_100_intervals_cover_the_true_difference(draw, count, mean):
    rng, trials = np.random.default_rng(11), 200
    covered = 0
    for _ in range(trials):
        low, high = paired(draw(rng, count)).interval
        covered += low <= mean <= high
    assert 0.91 <= covered / trials <= 0.99, covered / trials


def test_a_true_null_hypothesis_is_rejected_in_about_five_of_a_hundred():
    rng, trials = np.random.default_rng(5), 2000
    rejected = sum(sign_flip_p(rng.normal(0, 1, 8)) < 0.05 for _ in range(trials))
    assert 0.03 <= rejected / trials <= 0.06


@given(st.lists(numbers, min_size=1, max_size=8))
def test_summaries_hold_together(values):
    found = summary(values)
    assert found.count == len(values)
    assert min(values) - 1e-9 <= found.mean <= max(values) + 1e-9
    if len(values) == 1:
        assert found.spread is None
        assert found.interval is None
    else:
        low, high = found.interval
        assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9
        assert found.spread == pytest.approx(float(np.std(values, ddof=1)))


def test_a_single_difference_has_neither_interval_nor_p():
    found = paired([0.25])
    assert (found.mean, found.interval, found.p, found.smallest_p) == (0.25, None, None, 1.0)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_adjusts_upwards_and_keeps_the_order(p_values):
    found = holm(p_values)
    assert all(p <= adjusted <= 1 for p, adjusted in zip(p_values, found, strict=True))
    assert min(found) == pytest.approx(min(1.0, len(p_values) * min(p_values)))
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    assert [found[place] for place in order] == sorted(found)


def test_holms_own_example():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
