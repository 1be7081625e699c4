"""A worker only makes transitions in the table, in whatever order events happen."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from distsgd.cluster.actors import Location
from distsgd.cluster.worker_state import (
    TRANSITIONS,
    Alive,
    Connected,
    InvalidTransition,
    Located,
    ManagedWorker,
    Pending,
    Ready,
    Retired,
    Starting,
    State,
    Waiting,
)

HERE = Location("node", "host", 7, "")

STATES: dict[type[State], State] = {
    Waiting: Waiting(0.0),
    Pending: Pending("actor", "placed", "initialized", 1.0),
    Starting: Starting("actor", HERE, "initialized", 1.0),
    Ready: Ready("actor", HERE),
    Connected: Connected("actor", HERE, None),
    Retired: Retired(),
}

WAY_TO = {
    Waiting: (),
    Pending: (Pending,),
    Starting: (Pending, Starting),
    Ready: (Pending, Starting, Ready),
    Connected: (Pending, Starting, Ready, Connected),
    Retired: (Retired,),
}
"""A sequence of states that leads to each state."""


def worker_in(state: type[State]) -> ManagedWorker:
    worker = ManagedWorker(3)
    for step in WAY_TO[state]:
        worker.become(STATES[step], "test")
    return worker


def test_the_table_contains_every_state():
    assert set(TRANSITIONS) == set(STATES)
    assert set().union(*TRANSITIONS.values()) == set(STATES)


@pytest.mark.parametrize(("before", "after"), list(itertools.product(STATES, STATES)))
def test_an_invalid_transition_is_an_error_with_the_history(before, after):
    worker = worker_in(before)
    was = worker.state
    if after in TRANSITIONS[before]:
        worker.become(STATES[after], "because")
        assert type(worker.state) is after
        assert worker.history().endswith(f"s ago {after.__name__} (because)")
        return
    with pytest.raises(InvalidTransition) as error:
        worker.become(STATES[after], "because")
    assert worker.state is was
    assert f"worker 3 cannot go from {before.__name__} to {after.__name__} (because)" in str(error.value)
    places = [str(error.value).index(f"s ago {state.__name__}") for state in (Waiting, *WAY_TO[before])]
    assert places == sorted(places)


class WorkerLife(RuleBasedStateMachine):
    """What a group does with a worker, in any order: started, placed, initialized, connected, lost."""

    @initialize(max_restarts=st.integers(0, 4))
    def begin(self, max_restarts: int) -> None:
        self.now, self.losses, self.max_restarts = 100.0, 0, max_restarts
        self.worker = ManagedWorker(0, clock=lambda: self.now)

    def is_in(self, *states: type[State]) -> bool:
        return isinstance(self.worker.state, states)

    @rule(seconds=st.floats(0, 100))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: isinstance(self.worker.state, Waiting) and self.worker.state.due <= self.now)
    @rule()
    def started(self) -> None:
        self.worker.become(Pending(object(), "placed", "initialized", self.now + 60), "started")

    @precondition(lambda self: self.is_in(Pending))
    @rule()
    def placed(self) -> None:
        self.worker.become(Starting(self.worker.state.actor, HERE, "initialized", self.now + 60), "placed")

    @precondition(lambda self: self.is_in(Starting))
    @rule()
    def initialized(self) -> None:
        self.worker.become(Ready(self.worker.state.actor, HERE), "initialized")

    @precondition(lambda self: self.is_in(Ready))
    @rule(aggregator=st.none() | st.just("the aggregator of node 1"))
    def connected(self, aggregator: str | None) -> None:
        self.worker.become(Connected(self.worker.state.actor, HERE, aggregator), "connected")

    @precondition(lambda self: self.is_in(Connected))
    @rule()
    def server_lost(self) -> None:
        self.worker.become(Ready(self.worker.state.actor, HERE), "a new server")

    @precondition(lambda self: self.is_in(Alive))
    @rule()
    def lost(self) -> None:
        restarts = self.worker.restarts
        self.worker.lose("died", max_restarts=self.max_restarts, back_off_s=0.5)
        self.losses += 1
        if self.losses > self.max_restarts:
            assert self.is_in(Retired)
        else:
            assert self.worker.state == Waiting(self.now + 0.5 * 2**restarts)

    @precondition(lambda self: not self.is_in(Alive))
    @rule()
    def lost_again(self) -> None:
        """A death may be reported twice: the second time there is no process to lose."""
        before, restarts = self.worker.state, self.worker.restarts
        if self.is_in(Waiting) and restarts >= self.max_restarts:
            return  # a worker that has not started yet may be retired
        with pytest.raises(InvalidTransition):
            self.worker.lose("died", max_restarts=self.max_restarts, back_off_s=0.5)
        assert (self.worker.state, self.worker.restarts) == (before, restarts)

    @invariant()
    def it_is_restarted_as_often_as_it_was_lost_and_no_more_than_allowed(self) -> None:
        assert self.worker.restarts == min(self.losses, self.max_restarts)
        assert self.is_in(Retired) == (self.losses > self.max_restarts)

    @invariant()
    def exactly_the_workers_with_a_process_have_an_actor(self) -> None:
        assert self.is_in(Alive) == hasattr(self.worker.state, "actor")
        assert self.is_in(Located) == hasattr(self.worker.state, "location")


TestWorkerLife = WorkerLife.TestCase
TestWorkerLife.settings = settings(max_examples=60, stateful_step_count=40)
