"""The choice between two ways by their durations, and threads that make it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plain_training import serial_parameters, some_spec

from distsgd.core import numerics
from distsgd.engine.threads import ThreadedTraining
from distsgd.system.faster import KEPT, TRIED, Faster


def used(faster: Faster, durations: tuple[float, float], count: int) -> list[int]:
    """Return the ways of `count` uses, each of which takes as long as `durations` says."""
    ways = []
    for _ in range(count):
        ways.append(faster.way())
        faster.learn(ways[-1], durations[ways[-1]])
    return ways


@given(better=st.sampled_from([0, 1]), later=st.sampled_from([0, 1]))
def test_both_ways_are_measured_in_turn_and_the_faster_one_is_used_until_they_are_measured_again(better, later):
    faster = Faster()
    durations = {0: (1.0, 2.0), 1: (2.0, 1.0)}
    assert used(faster, durations[better], 2 * TRIED) == [0, 1] * TRIED
    assert set(used(faster, durations[better], KEPT)) == {better}
    assert used(faster, durations[later], 2 * TRIED) == [0, 1] * TRIED
    assert set(used(faster, durations[later], 9)) == {later}


def test_a_single_slow_use_does_not_decide():
    faster = Faster()
    faster.learn(0, 100.0)
    for _ in range(TRIED - 1):
        faster.learn(0, 1.0)
    for _ in range(TRIED):
        faster.learn(1, 2.0)
    assert faster.way() == 0


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_steps_in_both_ways_have_the_bits_of_the_serial_loop(momentum, monkeypatch):
    ways: list[int] = []
    monkeypatch.setattr(Faster, "learn", lambda _, way, __: ways.append(way))
    monkeypatch.setattr(Faster, "way", lambda _: len(ways) % 3 % 2)
    spec = some_spec(rows=90, train__num_shards=5, optim__momentum=momentum)
    training = ThreadedTraining(spec, 2, adaptive=True)
    with numerics.pinned_blas(1, None):
        assert training.run(9, lambda: None) == 9
    training.close()
    assert set(ways) == {0, 1}
    assert training.snapshot().parameters.tobytes() == serial_parameters(spec, 9)
