"""Which setting is the best: by the mean over its seeds."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distsgd.sweeps.observer import SweepObserver
from distsgd.sweeps.space import Space
from distsgd.sweeps.standings import Standings
from distsgd.sweeps.store import Sweep, SweepFile
from distsgd.sweeps.trial import Metric, Trial, best_trial, ranked, settings_of

LOSS = Metric.named("loss")


def trials(*settings, failed=()):
    """Return finished trials with the losses of each setting's seeds."""
    found = []
    for setting, losses in enumerate(settings):
        for seed, loss in enumerate(losses):
            number = len(found) + 1
            state = "FAILED" if number in failed else "FINISHED"
            result = {"val/loss": loss, "val/accuracy": 1 - loss}
            parameters = {"optim.lr": setting, "train.seed": seed}
            found.append(
                Trial(number=number, setting=setting, parameters=parameters, run_dir="", state=state, result=result)
            )
    return found


def test_the_best_setting_has_the_best_mean_and_not_the_best_seed():
    found = ranked(trials([0.1, 0.9], [0.4, 0.4]), LOSS)
    assert [setting.number for setting in found] == [1, 0]
    assert found[0].mean(LOSS) == pytest.approx(0.4)
    assert found[1].spread(LOSS) == pytest.approx(0.8 / math.sqrt(2))
    assert found[0].parameters == {"optim.lr": 1}


def test_for_accuracy_higher_is_better():
    found = ranked(trials([0.1], [0.4]), Metric.named("accuracy"))
    assert [setting.number for setting in found] == [0, 1]


def test_a_setting_that_failed_with_a_seed_comes_after_those_that_did_not():
    found = ranked(trials([0.1, 0.1], [0.4, 0.4], failed=[2]), LOSS)
    assert [setting.number for setting in found] == [1, 0]
    assert not found[1].is_complete
    assert found[1].values(LOSS) == [0.1]


def test_the_best_trial_is_the_best_seed_that_has_finished():
    (setting,) = settings_of(trials([0.3, 0.2, 0.1], failed=[3]))
    assert best_trial(setting, LOSS).number == 2


@pytest.mark.parametrize("value", [None, math.nan, math.inf, "0.1"])
def test_what_was_not_measured_is_no_value(value):
    assert LOSS.of({"val/loss": value}) is None


@given(st.lists(st.lists(st.floats(0, 1), min_size=2, max_size=3), min_size=1, max_size=5))
def test_the_order_is_that_of_the_means(settings):
    means = [setting.mean(LOSS) for setting in ranked(trials(*settings), LOSS)]
    assert means == sorted(means)
    assert len(means) == len(settings)


def test_while_a_sweep_runs_the_trials_of_the_setting_with_the_best_mean_are_marked(tmp_path):
    """The best seed of all is of another setting: at the end the sweep does not choose that."""
    every = trials([0.1, 0.9], [0.4, 0.5])
    for trial in every:
        trial.state = "RUNNING"
    space = Space(grids=(), ranges=(), settings=2, seeds=2)
    sweep = Sweep(parent="p", space=space, method="random", prune=False, requested={}, trials=every)
    standings = Standings(sweep, SweepFile(tmp_path), LOSS, SweepObserver())
    marked = []
    for trial in every:
        standings.change(trial, "FINISHED")
        marked.append([row.number for row in standings.rows if row.is_best])
    assert marked == [[1], [1, 2], [1, 2], [3, 4]]
    assert sweep.best == 3
    assert [(row.seeds, row.finished_seeds) for row in standings.rows] == [(2, 2)] * 4
    again = Standings(sweep, SweepFile(tmp_path), LOSS, SweepObserver())  # as of a sweep that is resumed
    assert [row.number for row in again.rows if row.is_best] == [3, 4]
