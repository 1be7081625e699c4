"""Where epochs and runs end, which steps are validated, and the journal records."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distsgd.config import Config
from distsgd.engine.arithmetic import check_sums_stay_exact
from distsgd.engine.plan import Plan
from distsgd.errors import ConfigError


def plan(rows: int = 100, **values) -> Plan:
    defaults = {"train.batch_size": 10, "train.epochs": 3, "train.num_shards": 2}
    return Plan.of(Config.build(defaults, {f"train.{key}": value for key, value in values.items()}), rows)


@pytest.mark.parametrize(
    ("values", "total"),
    [
        ({}, 30),
        ({"max_steps": 7}, 7),
        ({"max_steps": 31}, 30),
        ({"max_steps": 0}, 0),
        ({"epochs": 0}, 0),
        ({"batch_size": 1000}, 3),
        ({"batch_size": 99}, 6),
    ],
)
def test_the_number_of_steps_is_limited_by_epochs_and_max_steps(values, total):
    assert plan(**values).total_steps == total


def test_the_sampler_follows_the_configuration():
    sampler = plan(rows=37, seed=5, sampling="replacement").sampler
    assert (sampler.rows, sampler.batch_size, sampler.num_shards, sampler.seed) == (37, 10, 2, 5)
    assert sampler.replacement
    assert not plan().sampler.replacement


def test_an_epoch_ends_after_all_rows_or_with_the_run():
    run = plan(max_steps=25)
    assert [run.epoch_end(step) for step in (0, 9, 10, 19, 20, 24)] == [10, 10, 20, 20, 25, 25]
    assert run.epoch(5) == 0.5
    assert run.epoch(25) == 2.5


@pytest.mark.parametrize(
    ("values", "evaluated"),
    [
        ({"max_steps": 25}, [10, 20, 25]),
        ({"eval_every": 2}, [20, 30]),
        ({"eval_every": 5}, [30]),
        ({"max_steps": 0}, [0]),
    ],
)
def test_epochs_and_the_last_step_are_validated(values, evaluated):
    run = plan(**values)
    assert [step for step in range(run.total_steps + 1) if run.is_evaluated(step)] == evaluated


def test_a_record_describes_the_last_step():
    config = Config.build({"train.batch_size": 10, "optim.schedule": "step", "optim.decay_every": 1, "optim.lr": 0.5})
    run = Plan.of(config, 100)
    assert run.record(10, 1.5) == {"step": 10, "epoch": 1.0, "train/lr": 0.5, "train/loss": 1.5}
    assert run.record(11, 1.5)["train/lr"] == 0.25
    assert run.record(11, 1.5, skipped=2)["train/skipped_steps"] == 2


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_non_finite_loss_is_left_out_of_the_record(loss):
    assert "train/loss" not in plan().record(3, loss, skipped=1)


@given(rows=st.integers(1, 500), batch=st.integers(2, 600), epochs=st.integers(0, 4))
def test_following_epoch_ends_reaches_the_end_of_the_run(rows, batch, epochs):
    run = plan(rows, batch_size=batch, epochs=epochs)
    step, examples = 0, 0
    while step < run.total_steps:
        end = run.epoch_end(step)
        assert step < end <= run.total_steps
        assert run.is_evaluated(end)
        examples += sum(run.sampler.batch_count(s) for s in range(step, end))
        step = end
    assert examples == rows * epochs


@pytest.mark.parametrize(
    ("until", "logged"), [(3, set()), (11, {4, 8, 10}), (12, {4, 8, 10, 12}), (20, {4, 8, 10, 12, 16, 20})]
)
def test_steps_are_logged_at_intervals_and_at_the_ends_of_epochs(until, logged):
    assert plan(log_every=4).logged_steps(until) == logged


def test_mini_batches_and_outputs_that_are_too_many_for_exact_sums_are_refused():
    most = 2**20
    config = Config.build({"train.batch_size": most + 1, "train.arithmetic": "portable"})
    check_sums_stay_exact(config, most, most)
    check_sums_stay_exact(Config.build({"train.batch_size": most + 1}), most + 1, most + 1)
    with pytest.raises(ConfigError, match=r"train.batch_size is 1048577.*at most 1048576 examples: lower"):
        check_sums_stay_exact(config, most + 1, 2)
    with pytest.raises(ConfigError, match="the model has 1048577 outputs"):
        check_sums_stay_exact(config, 100, most + 1)
