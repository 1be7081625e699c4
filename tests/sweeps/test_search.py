"""Settings that are drawn, and trials that are given up: functions of what is known."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distsgd.config import Config
from distsgd.sweeps.search import draw, is_hopeless
from distsgd.sweeps.space import make_space

SPACE = make_space(
    {"model.hidden": [4, 8]},
    {"optim.lr": "log:1e-4:1", "train.batch_size": "uniform:16:64"},
    trials=40,
    seeds=1,
    base=Config(),
)


def drawn(number, *, method="random", seed=0, known=()):
    return draw(SPACE, method, number, seed, known, lower_is_better=True)


def test_a_random_setting_depends_on_its_number_and_the_seed_alone():
    first = [drawn(number) for number in range(10)]
    assert first == [drawn(number) for number in range(10)]
    assert first != [drawn(number, seed=1) for number in range(10)]
    assert len({setting["optim.lr"] for setting in first}) == 10


def test_settings_lie_in_their_ranges_and_take_the_grid_in_turn():
    found = [drawn(number) for number in range(40)]
    assert [setting["model.hidden"] for setting in found] == [4, 8] * 20
    for setting in found:
        assert 1e-4 <= setting["optim.lr"] <= 1
        assert setting["optim.lr"] == float(f"{setting['optim.lr']:.4g}")
        assert type(setting["train.batch_size"]) is int
        assert 16 <= setting["train.batch_size"] <= 64
    below = sum(setting["optim.lr"] < 1e-2 for setting in found)
    assert 8 <= below <= 32, "the logarithm is drawn evenly, so half of them are below the middle"


def test_tpe_draws_near_the_good_settings_and_is_a_function_of_what_is_known():
    known = list[tuple[dict, float | None]]()
    for number in range(40):
        setting = drawn(number, method="tpe", known=known)
        assert setting == drawn(number, method="tpe", known=known)
        known.append((setting, abs(math.log10(setting["optim.lr"]) + 1)))
    early = [value for _, value in known[:10]]
    late = [value for _, value in known[-10:]]
    assert sum(late) < 0.6 * sum(early)


def test_tpe_takes_settings_that_still_run():
    setting = drawn(0, method="tpe")
    assert 1e-4 <= drawn(1, method="tpe", known=[(setting, None)])["optim.lr"] <= 1


OTHERS = [{1: 1.0, 2: level} for level in (0.2, 0.3, 0.4, 0.5, 0.6)]


@pytest.mark.parametrize(
    ("curve", "others", "hopeless"),
    [
        ({1: 1.0, 2: 0.9}, OTHERS, True),
        ({1: 1.0, 2: 0.35}, OTHERS, False),
        ({1: 0.1, 2: 0.9}, OTHERS, False),  # its best is what counts
        ({1: 1.0, 2: 0.9}, OTHERS[:4], False),  # too few to judge by
    ],
)
def test_a_trial_is_hopeless_if_its_best_is_worse_than_the_median(curve, others, hopeless):
    assert is_hopeless(curve, others, lower_is_better=True) is hopeless
    mirrored = [{step: -value for step, value in other.items()} for other in others]
    assert is_hopeless({s: -v for s, v in curve.items()}, mirrored, lower_is_better=False) is hopeless


@settings(max_examples=20)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=5), st.floats(0, 1))
def test_the_best_of_all_is_never_given_up(levels, step_value):
    others = [{1: level} for level in levels] + [{1: 2.0}] * 5
    assert not is_hopeless({1: min([*levels, step_value])}, others, lower_is_better=True)
