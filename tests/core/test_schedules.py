"""Learning-rate schedules at their ends and in between."""

from __future__ import annotations

import itertools
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distsgd.config import OptimConfig
from distsgd.core.schedules import SCHEDULES, learning_rate


def test_the_configuration_names_exactly_the_schedules_that_there_are():
    assert set(get_args(OptimConfig.model_fields["schedule"].annotation)) == set(SCHEDULES)


def rates(total: int, steps_per_epoch: int = 10, **options) -> list[float]:
    config = OptimConfig(**{"lr": 0.4} | options)
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
    schedule=st.sampled_from(sorted(SCHEDULES)),
    steps_per_epoch=st.integers(1, 50),
)
def test_a_rate_is_never_negative_nor_above_its_maximum(total, warmup, schedule, steps_per_epoch):
    found = rates(total, steps_per_epoch, schedule=schedule, warmup_steps=warmup, decay_every=1.5, final_lr=0.01)
    assert all(0 <= rate <= 0.4 for rate in found)
    assert all(rate > 0 for rate in found[:-1])


def test_exponential_changes_by_one_factor_and_ends_at_the_final_rate():
    found = rates(21, schedule="exponential", lr=1e-4, final_lr=1.0)
    assert found[0] == 1e-4
    assert found[-1] == pytest.approx(1.0)
    factors = [after / before for before, after in itertools.pairwise(found)]
    assert factors == pytest.approx([factors[0]] * 20)
    falling = rates(11, schedule="exponential", lr=1.0, final_lr=1e-3)
    assert falling == pytest.approx([10 ** (-0.3 * step) for step in range(11)])
