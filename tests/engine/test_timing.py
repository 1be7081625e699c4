"""Step times, with a fake clock."""

from __future__ import annotations

import pytest

from distsgd.engine import timing
from distsgd.engine.timing import StepTimes


def steps(*seconds: float, examples: int = 10) -> StepTimes:
    times, now = StepTimes(), 100.0
    times.start(now)
    for duration in seconds:
        now += duration
        times.add(now, examples)
    return times


def test_without_steps_the_summary_is_empty():
    assert steps().summary() == {}
    assert steps().since_last() == {}


def test_percentiles_and_throughput():
    times = steps(*[1.0], *[0.01] * 90, *[0.05] * 10)
    assert times.summary() == {
        "step_ms_p50": pytest.approx(10),
        "step_ms_p95": pytest.approx(50),
        "samples_per_s": pytest.approx(1000 / 1.4),
    }


def test_the_first_second_is_left_out():
    """Including all steps that begin in it: one slow first step, or many."""
    for slow in ([5.0], [0.25] * 4, [0.4] * 3):
        assert steps(*slow, *[0.01] * 50).summary()["samples_per_s"] == pytest.approx(1000)


def test_a_run_shorter_than_a_second_leaves_nothing_out():
    assert steps(0.2, 0.2, 0.2).summary()["step_ms_p50"] == pytest.approx(200)
    assert steps(5.0).summary()["step_ms_p50"] == pytest.approx(5000)


def test_a_pause_between_two_calls_of_run_is_not_counted():
    times = steps(*[1.0], *[0.01] * 10)
    times.start(500.0)
    times.add(500.01, 10)
    assert times.summary()["samples_per_s"] == pytest.approx(1000)


def test_since_last_is_the_mean_over_the_steps_since_the_last_call():
    times = steps(0.01, 0.03)
    assert times.since_last() == {"time/step_ms": pytest.approx(20), "time/samples_per_s": pytest.approx(500)}
    assert times.since_last() == {}
    times.add(100.09, 10)
    assert times.since_last() == {"time/step_ms": pytest.approx(50), "time/samples_per_s": pytest.approx(200)}


def test_steps_that_took_no_time_by_the_clock_have_no_throughput():
    assert steps(0.0, 0.0).since_last() == {}


def test_only_the_most_recent_steps_are_kept(monkeypatch):
    monkeypatch.setattr(timing, "KEPT", 5)
    times = steps(*[0.1] * 20, *[0.02] * 5)
    assert times.summary()["step_ms_p95"] == pytest.approx(20)
