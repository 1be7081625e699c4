"""A dispatcher gets every gradient exactly once, with the bits of the serial tree, whoever dies and whenever."""

from __future__ import annotations

import dataclasses
import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distsgd.comm import dispatcher
from distsgd.comm.dispatcher import Dispatcher, InterruptedStepError
from distsgd.comm.transport import Answer, PeerFailedError, PeerLostError
from distsgd.core import reduction
from distsgd.core.reduction import Node, PartialSum
from distsgd.errors import TrainingError, WorkerLostError

P = 5
"""Parameters of these tests' net."""

LONG_S, SHORT_S = 20.0, 0.05


def leaf(step: int, shard: int, parameters: np.ndarray) -> PartialSum:
    """Return what any peer computes of a shard: it depends on step, shard and parameters alone."""
    rng = np.random.default_rng([step, shard])
    gradient = (rng.normal(size=P) * parameters).astype("f4")
    return PartialSum((shard, shard + 1), gradient, float(rng.normal()), int(rng.integers(1, 9)))


def added(a: PartialSum, b: PartialSum, _: int) -> PartialSum:
    return PartialSum((a.node[0], b.node[1]), a.gradient + b.gradient, a.loss + b.loss, a.examples + b.examples)


def subtree(node: Node, step: int, parameters: np.ndarray) -> PartialSum:
    def known(node: Node, _: int) -> PartialSum | None:
        return leaf(step, node[0], parameters) if node[1] - node[0] == 1 else None

    return reduction.tree_sum(node, known, added)


FATES = ["answers", "answers", "is late", "refuses", "dies", "answers and dies", "is stale", "strays", "is silent"]
"""What a peer may do when it is asked; most steps have to go well."""

LATE_S = {"is late": 0.002, "is slow": 0.1}


class FakePeer:
    """Computes like a worker, into memory that it uses again, and meets its fates one after the other."""

    def __init__(self, name: str, dispatcher: Dispatcher, num_shards: int, fates: list[str], weight: int = 1) -> None:
        self.name, self.host, self.weight, self.pid = name, "here", weight, 1234
        self.asked: list[tuple[int, range]] = []
        self.killed = self.closed = False
        self.on_close: Callable[[], None] = lambda: None
        self._dispatcher, self._num_shards, self._fates = dispatcher, num_shards, deque(fates)
        self._slots = np.zeros((reduction.max_subtrees(num_shards), P), "f4")
        self._event = os.eventfd(0, os.EFD_SEMAPHORE | os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._arrived: deque[Answer | Exception] = deque()

    def fileno(self) -> int:
        return self._event

    def start(self, step: int, shards: range, buffer: int) -> None:
        assert not self.closed
        self.asked.append((step, shards))
        self._slots[:] = np.nan  # whoever still holds the last answer has to have copied it
        fate = self._fates.popleft() if self._fates else "answers"
        parameters = self._dispatcher.buffers[buffer]
        partials = []
        for slot, node in zip(self._slots, reduction.maximal_subtrees(shards, self._num_shards), strict=False):
            partial = subtree(node, step, parameters)
            slot[:] = partial.gradient
            partials.append(partial._replace(gradient=slot))
        answer = Answer(step, shards, partials)
        if fate == "refuses":
            raise PeerLostError("broken pipe")
        if fate == "dies":
            self.arrive(PeerLostError("end of stream"))
        elif fate == "is stale":
            self.arrive(answer._replace(step=step - 1))
        elif fate == "strays":
            self.arrive(answer._replace(shards=range(shards.start, shards.stop + 1)))
        elif fate == "fails":
            self.arrive(PeerFailedError("ValueError: bad rows"))
        elif fate in LATE_S:
            threading.Timer(LATE_S[fate], self.arrive, [answer]).start()
        elif fate == "is silent":
            self.withheld = answer
        else:
            self.arrive(answer)
        if fate == "answers and dies":
            self.arrive(PeerLostError("end of stream"))

    def arrive(self, what: Answer | Exception) -> None:
        self._arrived.append(what)
        if not self.closed:
            os.eventfd_write(self._event, 1)

    def receive(self) -> Answer:
        os.eventfd_read(self._event)
        what = self._arrived.popleft()
        if isinstance(what, Exception):
            raise what
        return what

    def close(self, *, kill: bool = False) -> None:
        self.closed, self.killed = True, kill
        os.close(self._event)
        self.on_close()


@dataclasses.dataclass
class Agency:
    """Sends peers, each with its fates, and a replacement for each that is lost."""

    dispatcher: Dispatcher
    num_shards: int
    fates: list[list[str]]
    replaces: bool = True

    def __post_init__(self) -> None:
        self.sent: list[FakePeer] = []

    def send(self, weight: int = 1) -> FakePeer:
        number = len(self.sent)
        fates = self.fates[number] if number < len(self.fates) else []
        peer = FakePeer(f"peer {number}", self.dispatcher, self.num_shards, fates, weight)
        if self.replaces:
            peer.on_close = lambda: self.send() and None
        self.sent.append(peer)
        self.dispatcher.join(peer)
        return peer

    def close(self) -> None:
        self.replaces = False
        for peer in self.sent:
            peer.on_close = lambda: None
        self.dispatcher.close()
        os.close(self.dispatcher.parameter_buffers.descriptor)


def crew_of(
    fates: list[list[str]], num_shards: int, *, peers: int | None = None, timeout_s: float = LONG_S, **values
) -> Agency:
    """Return an agency that has sent `peers`, by default as many as there are lists of fates."""
    dispatcher = Dispatcher(P, **{"timeout_s": timeout_s, "arrival_timeout_s": LONG_S, "spin": False} | values)
    dispatcher.buffers[:] = np.arange(1, 2 * P + 1).reshape(2, P)
    agency = Agency(dispatcher, num_shards, fates)
    for _ in range(len(fates) if peers is None else peers):
        agency.send()
    return agency


@pytest.fixture
def agencies():
    """A list for the agencies that a test makes, which are closed after it."""
    made: list[Agency] = []
    yield made
    for agency in made:
        agency.close()


def check(agency: Agency, step: int, shards: range) -> None:
    """Exchange gradients and compare them with the serial ones."""
    dispatcher, buffer = agency.dispatcher, step % 2
    held: dict[Node, PartialSum] = {}
    for partial in dispatcher.exchange(step, buffer, shards):
        assert partial.node not in held, "a subtree came twice"
        held[partial.node] = partial
    covered = [shard for lo, hi in sorted(held) for shard in range(lo, hi)]
    assert covered == list(shards), "every shard exactly once"
    for root in reduction.maximal_subtrees(shards, agency.num_shards):
        total = reduction.tree_sum(root, lambda node, _: held.get(node), added)
        expected = subtree(root, step, dispatcher.buffers[buffer])
        assert total.gradient.tobytes() == expected.gradient.tobytes()
        assert (total.loss, total.examples) == (expected.loss, expected.examples)


@st.composite
def situations(draw):
    num_shards = draw(st.integers(1, 12))
    lo = draw(st.integers(0, num_shards - 1))
    hi = draw(st.integers(lo + 1, num_shards))
    fates = draw(st.lists(st.lists(st.sampled_from(FATES), max_size=4), max_size=8))
    return num_shards, range(lo, hi), fates, draw(st.integers(0, 5)), draw(st.booleans())


@settings(max_examples=150)
@given(situations())
def test_every_shard_comes_once_with_the_serial_bits_whoever_dies_when(situation):
    num_shards, shards, fates, peers, spin = situation
    agency = crew_of(fates, num_shards, peers=peers, timeout_s=SHORT_S, spin=spin)
    try:
        if not peers:
            agency.send()
        for step in range(5):
            check(agency, step, shards)
            assert len({peer.fileno() for peer in agency.sent if not peer.closed}) == agency.dispatcher.size()
        gone = [peer.name for peer in agency.sent if peer.closed]
        assert sorted(loss.name for loss in agency.dispatcher.take_lost_peers()) == sorted(gone)
        assert not agency.dispatcher.take_lost_peers(), "each loss is told once"
    finally:
        agency.close()


@pytest.mark.parametrize("order", list(itertools.permutations(["dies", "answers and dies", "answers"])))
def test_the_last_one_standing_computes_what_the_others_owe(agencies, order):
    agency = crew_of([[fate] for fate in order], 7)
    agency.replaces = False
    for peer in agency.sent:
        peer.on_close = lambda: None
    agencies.append(agency)
    for step in range(3):
        check(agency, step, range(7))
    assert agency.dispatcher.size() == 1


def test_when_all_have_died_a_new_one_does_their_work(agencies):
    agency = crew_of([["dies"], ["refuses"], ["dies"]], 6)
    for peer in agency.sent:
        peer.on_close = lambda: None
    agencies.append(agency)
    threading.Timer(0.1, agency.send).start()
    check(agency, 0, range(6))
    (newcomer,) = agency.sent[3:]
    assert sorted(shard for _, run in newcomer.asked for shard in run) == list(range(6))


def test_a_crew_that_nobody_has_joined_waits_for_the_first(agencies):
    agencies.append(crew_of([], 4))
    threading.Timer(0.1, agencies[0].send).start()
    check(agencies[0], 0, range(4))


def test_peers_that_are_dead_when_they_come_cost_no_time(agencies):
    agency = crew_of([["refuses"], ["refuses"], ["refuses"]], 4, peers=1)
    agencies.append(agency)
    began = time.monotonic()
    check(agency, 0, range(4))
    assert time.monotonic() - began < LONG_S / 4
    assert [peer.closed for peer in agency.sent] == [True, True, True, False]


def test_without_anyone_the_step_fails_after_a_while(agencies):
    agencies.append(crew_of([], 4, arrival_timeout_s=SHORT_S))
    for _ in range(2):
        with pytest.raises(WorkerLostError, match=r"no worker is left in step 8, and none came within 0\.05 s"):
            agencies[0].dispatcher.exchange(7, 0, range(4))


def test_waiting_for_a_worker_can_be_interrupted(agencies):
    agencies.append(crew_of([], 4))
    threading.Timer(0.05, agencies[0].dispatcher.interrupt).start()
    with pytest.raises(InterruptedStepError):
        agencies[0].dispatcher.exchange(0, 0, range(4))


def test_an_interruption_leaves_a_step_with_workers_alone(agencies):
    agencies.append(crew_of([["is late"], []], 4))
    agencies[0].dispatcher.interrupt()
    check(agencies[0], 0, range(4))


def test_a_failed_computation_is_the_steps_failure_and_nobody_is_lost(agencies):
    agencies.append(crew_of([[], ["fails"]], 4))
    message = r"peer 1 on here failed in step 4: ValueError: bad rows"
    with pytest.raises(TrainingError, match=message):
        agencies[0].dispatcher.exchange(3, 0, range(4))
    assert not agencies[0].dispatcher.take_lost_peers()


def test_who_is_silent_is_killed_and_named_with_its_shards(agencies):
    agencies.append(crew_of([["answers", "is silent"], []], 4, timeout_s=SHORT_S))
    for step in range(3):
        check(agencies[0], step, range(4))
    assert [peer.killed for peer in agencies[0].sent] == [True, False, False]
    (loss,) = agencies[0].dispatcher.take_lost_peers()
    assert (loss.name, loss.host, loss.pid, loss.step) == ("peer 0", "here", 1234, 2)
    assert loss.problem == "has not answered for 0.05 s while it computed shards 0 to 1"


def test_who_takes_over_from_a_silent_one_has_the_whole_time_for_it(agencies):
    agencies.append(crew_of([["is silent"], ["answers", "is late"]], 2, timeout_s=SHORT_S))
    check(agencies[0], 0, range(2))
    assert [loss.name for loss in agencies[0].dispatcher.take_lost_peers()] == ["peer 0"]


@pytest.mark.parametrize("fate", ["dies", "refuses", "is stale", "strays"])
def test_who_is_lost_otherwise_is_not_killed(agencies, fate):
    agencies.append(crew_of([[fate], []], 3))
    check(agencies[0], 0, range(3))
    (loss,) = agencies[0].dispatcher.take_lost_peers()
    assert (loss.name, loss.step) == ("peer 0", 1)
    assert loss.problem
    assert agencies[0].sent[0].closed
    assert not agencies[0].sent[0].killed


def test_nobody_waits_for_who_has_answered_already(agencies):
    """An answer is kept when its peer is given more work, and when it dies."""
    agencies.append(crew_of([["answers", "answers and dies"], ["dies", "dies"], ["dies"], ["is late"]], 13))
    for step in range(4):
        check(agencies[0], step, range(13))


def learnt(agency: Agency) -> tuple[FakePeer, FakePeer]:
    """Do a step in which the first of two peers, which is to be silent, answers last; return both."""
    slowest, other = agency.sent

    def receive() -> Answer:
        slowest.arrive(slowest.withheld)
        return FakePeer.receive(other)

    other.receive = receive
    check(agency, 0, range(agency.num_shards))
    del other.receive
    return slowest, other


def test_nobody_is_listened_to_before_the_slowest_has_answered(monkeypatch, agencies):
    """To wake up for each answer would take the core from a peer that still computes."""
    monkeypatch.setattr(dispatcher, "SINGLE_PEER_WAIT_MS", 1000 * LONG_S)
    agencies.append(crew_of([["is silent", "is slow", "is slow"], []], 4))
    slowest, other = learnt(agencies[0])
    order = []
    slowest.arrive = lambda answer: (order.append("arrived"), FakePeer.arrive(slowest, answer))
    other.receive = lambda: (order.append("received"), FakePeer.receive(other))[1]
    for step in (1, 2):
        check(agencies[0], step, range(4))
    assert order == 2 * ["arrived", "received"]


def test_a_death_is_heard_of_while_the_slowest_computes(agencies):
    agencies.append(crew_of([["is silent", "is silent"], ["answers", "dies"]], 3))
    slowest, other = learnt(agencies[0])
    replace = other.on_close
    other.on_close = lambda: (replace(), slowest.arrive(slowest.withheld))
    began = time.monotonic()
    check(agencies[0], 1, range(3))
    assert time.monotonic() - began < LONG_S / 2
    assert [loss.name for loss in agencies[0].dispatcher.take_lost_peers()] == ["peer 1"]


@pytest.mark.parametrize(
    ("weights", "sizes"),
    [([1, 1], [4, 4]), ([1, 3], [2, 6]), ([5, 1, 2], [5, 1, 2]), ([1], [8]), ([9], [8])],
)
def test_a_peer_gets_shards_for_all_workers_that_it_stands_for(agencies, weights, sizes):
    agencies.append(crew_of([], 8))
    for weight in weights:
        agencies[0].send(weight)
    check(agencies[0], 0, range(8))
    assert [len(peer.asked[0][1]) for peer in agencies[0].sent] == sizes
    assert agencies[0].dispatcher.size() == sum(weights)


def test_more_workers_than_shards_leave_some_idle(agencies):
    agencies.append(crew_of([[], [], []], 2))
    for step in range(2):
        check(agencies[0], step, range(2))
    assert sum(len(peer.asked) for peer in agencies[0].sent) == 4


def test_a_peer_that_stands_for_more_workers_gets_more_from_the_next_step_on(agencies):
    agencies.append(crew_of([[], []], 6))
    agency = agencies[0]
    check(agency, 0, range(6))
    agency.dispatcher.reweigh("peer 1", 2)
    agency.dispatcher.reweigh("peer of another dispatcher", 9)
    assert agency.dispatcher.size() == 3
    check(agency, 1, range(6))
    assert [len(run) for _, run in agency.sent[1].asked] == [3, 4]


def test_who_comes_takes_part_from_the_next_step_on(agencies):
    agencies.append(crew_of([[]], 6))
    check(agencies[0], 0, range(6))
    newcomer = agencies[0].send()
    assert agencies[0].dispatcher.size() == 2
    check(agencies[0], 1, range(6))
    assert newcomer.asked == [(1, range(3, 6))]


def test_a_step_may_be_over_any_run_of_shards(agencies):
    """As an aggregator's is, whose shards change with the number of workers."""
    agencies.append(crew_of([[], []], 11))
    for step, shards in enumerate([range(3, 9), range(3, 9), range(11), range(10, 11)]):
        check(agencies[0], step, shards)


def test_closing_hangs_up_on_everybody(agencies):
    agency = crew_of([[], []], 4)
    check(agency, 0, range(4))
    agency.replaces = False
    for peer in agency.sent:
        peer.on_close = lambda: None
    agency.send()
    agency.close()
    assert all(peer.closed and not peer.killed for peer in agency.sent)
    assert agency.dispatcher.size() == 0
