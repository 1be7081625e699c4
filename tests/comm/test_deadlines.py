"""How long a peer may take follows from what it has taken: nobody who is merely slow is lost, and nobody waits long."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from distsgd.comm.deadlines import DECAY, FACTOR, FIRST_S, FLOOR_S, GROWTH, Deadlines, transfer_s
from distsgd.config.keys import matching

PEER = 7

QUICK_S = FLOOR_S / FACTOR
"""The longest step that is still given the least timeout."""

STEPS = st.floats(0, 1000)


def deadlines_after(*taken: float, shards: int = 4) -> Deadlines:
    """Return the default deadlines when a peer has taken so many seconds in successive steps."""
    deadlines = Deadlines.for_server("auto")
    deadlines.expect([(PEER, shards)])
    for took_s in taken:
        deadlines.learn(PEER, shards, took_s)
    return deadlines


def test_the_first_answer_has_longer():
    assert deadlines_after().timeout_s(PEER, 4) == FIRST_S > FLOOR_S
    assert deadlines_after().unsettled == {PEER}


def test_a_peer_of_a_small_net_has_the_least_timeout_after_one_step():
    deadlines = deadlines_after(0.0001)
    assert deadlines.timeout_s(PEER, 4) == deadlines.least_s == FLOOR_S
    assert not deadlines.unsettled


@given(st.floats(0, FIRST_S / 10), st.lists(st.floats(1, 10)))
def test_nobody_is_lost_on_a_machine_that_is_ten_times_slower_for_a_while(usual_s, slower):
    deadlines = deadlines_after(usual_s)
    for times in slower:
        assert usual_s * times < max(deadlines.timeout_s(PEER, 4), 1e-9)
        deadlines.learn(PEER, 4, usual_s * times)


@given(st.lists(st.floats(0, 100), min_size=1), st.floats(0, 1e6))
def test_one_slow_step_makes_the_timeout_at_most_twice_as_long(taken, slow_s):
    deadlines = deadlines_after(*taken)
    before_s = deadlines.timeout_s(PEER, 4)
    deadlines.learn(PEER, 4, slow_s)
    assert deadlines.timeout_s(PEER, 4) <= GROWTH * before_s * (1 + 1e-9)


@given(st.lists(STEPS, min_size=1), st.floats(0, 100))
def test_what_a_peer_once_took_is_forgotten(taken, usual_s):
    """However long the first steps took, the timeout becomes FACTOR times as long as the later ones."""
    steps = 1 + math.ceil(math.log(1e6) / -math.log(DECAY))
    deadlines = deadlines_after(*taken, *[usual_s] * steps)
    assert deadlines.timeout_s(PEER, 4) == pytest.approx(max(FLOOR_S, FACTOR * usual_s), rel=0.01)


@given(st.lists(STEPS, min_size=1), st.integers(1, 64), st.integers(1, 64))
def test_a_peer_that_gets_more_shards_has_longer_in_proportion(taken, before, now):
    deadlines = deadlines_after(*taken, shards=before)
    expected_s = deadlines.timeout_s(PEER, before) * max(1.0, now / before)
    asked_once_s = deadlines.timeout_s(PEER, now)
    deadlines.expect([(PEER, now)])
    for timeout_s in (asked_once_s, deadlines.timeout_s(PEER, now)):
        assert FLOOR_S <= timeout_s <= expected_s * (1 + 1e-9)
        assert timeout_s == pytest.approx(expected_s) or timeout_s < 2 * FLOOR_S * max(1.0, now / before)


def test_nothing_is_learned_from_a_task_of_another_size():
    deadlines = deadlines_after(1.0)
    deadlines.learn(PEER, 1, 0.001)
    deadlines.learn(PEER, 9, 100.0)
    assert deadlines.timeout_s(PEER, 4) == FACTOR
    deadlines.learn(PEER + 1, 4, 100.0)
    assert deadlines.timeout_s(PEER + 1, 4) == FIRST_S


@given(st.lists(STEPS))
def test_a_worker_times_out_before_its_aggregator_does(taken):
    """The aggregator takes as long as the slowest of its workers."""
    server, aggregator = deadlines_after(*taken), Deadlines.for_aggregator("auto")
    aggregator.expect([(PEER, 4)])
    for took_s in taken:
        aggregator.learn(PEER, 4, took_s)
    assert aggregator.timeout_s(PEER, 4) == pytest.approx(0.8 * server.timeout_s(PEER, 4))
    assert aggregator.least_s >= 8.0


@given(st.floats(1e-3, 1e6), st.lists(STEPS), st.integers(1, 64))
def test_a_number_keeps_its_meaning(timeout_s, taken, shards):
    for deadlines, expected_s in (
        (Deadlines.for_server(timeout_s), timeout_s),
        (Deadlines.for_aggregator(timeout_s), timeout_s / 2),
    ):
        deadlines.expect([(PEER, 4)])
        assert deadlines.timeout_s(PEER, shards) == deadlines.least_s == expected_s
        for took_s in taken:
            deadlines.learn(PEER, 4, took_s)
            assert deadlines.timeout_s(PEER, shards) == expected_s
            assert not deadlines.unsettled


class Peers(RuleBasedStateMachine):
    """Peers that join, are lost, get more or fewer shards and answer, in any order."""

    @initialize()
    def start(self) -> None:
        self.deadlines = Deadlines.for_server("auto")
        self.assigned: dict[int, int] = {}
        self.answered: set[int] = set()

    @rule(assigned=st.dictionaries(st.integers(0, 3), st.integers(1, 8)))
    def assign(self, assigned: dict[int, int]) -> None:
        self.assigned = assigned
        self.deadlines.expect(assigned.items())

    @rule(peer=st.integers(0, 3), took_s=st.sampled_from([0.0, 0.1, QUICK_S, 0.6, 3.0, 100.0]))
    def answer(self, peer: int, took_s: float) -> None:
        if peer in self.assigned:
            self.answered.add(peer)
            self.deadlines.learn(peer, self.assigned[peer], took_s)

    @rule(peer=st.integers(0, 3))
    def lose(self, peer: int) -> None:
        self.deadlines.forget(peer)
        self.answered.discard(peer)
        self.assigned.pop(peer, None)

    @invariant()
    def timeouts_are_known(self) -> None:
        for peer, shards in self.assigned.items():
            timeout_s = self.deadlines.timeout_s(peer, shards)
            assert timeout_s >= self.deadlines.least_s
            assert peer in self.answered or timeout_s == FIRST_S
            assert (peer in self.deadlines.unsettled) == (timeout_s > self.deadlines.least_s)
        assert self.deadlines.unsettled <= set(self.assigned)


TestPeers = Peers.TestCase
TestPeers.settings = settings(max_examples=30, stateful_step_count=20)


def test_a_vector_may_travel_longer_if_it_is_long():
    assert transfer_s("auto", 4 * 2_395) == pytest.approx(FLOOR_S, abs=0.1)
    assert transfer_s("auto", 10**9) == FLOOR_S + 500
    assert transfer_s(3.0, 10**9) == 3.0


def test_the_key_is_described_with_these_numbers():
    (key,) = matching("run.timeout_s")
    words = f"{FACTOR:g} times as long as its steps usually take, at least {FLOOR_S:g}; {FIRST_S:g} for its first step"
    assert words in key.meaning
