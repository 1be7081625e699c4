"""A dispatcher returns every gradient exactly once, with the bits of the serial tree, whichever peers die and when."""

from __future__ import annotations

import dataclasses
import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distsgd.comm import dispatcher, exchange
from distsgd.comm.deadlines import Deadlines
from distsgd.comm.dispatcher import Dispatcher
from distsgd.comm.membership import InterruptedStepError
from distsgd.comm.transport import Answer, PeerFailedError, PeerLostError, PeerTimeoutError
from distsgd.core import reduction
from distsgd.core.reduction import Node, PartialSum
from distsgd.errors import TrainingError, WorkerLostError

P = 5
"""Number of parameters in these tests."""

LONG_S, SHORT_S = 20.0, 0.05


def leaf(step: int, shard: int, parameters: np.ndarray) -> PartialSum:
    """Return the gradient of a shard: it depends only on the step, the shard and the parameters."""
    rng = np.random.default_rng([step, shard])
    gradient = (rng.normal(size=P) * parameters).astype("f4")
    return PartialSum((shard, shard + 1), gradient, float(rng.normal()), int(rng.integers(1, 9)), float(rng.random()))


def subtree(node: Node, step: int, parameters: np.ndarray) -> PartialSum:
    return reduction.sum_over(node, [leaf(step, shard, parameters) for shard in range(*node)])


BEHAVIORS = [
    "answers",
    "answers",
    "answers late",
    "closed the connection",
    "takes no parameters",
    "dies",
    "answers and dies",
    "answers for another step",
    "answers for other shards",
    "is silent",
    "answer does not arrive",
    "wakes up for nothing",
]
"""What a peer may do when it gets a task; most steps have to succeed."""

DELAY_S = {"answers late": 0.002, "answers very late": 0.1}


class FakePeer:
    """Computes like a worker, in memory that it reuses, and follows a script, one entry per request."""

    def __init__(self, name: str, dispatcher: Dispatcher, num_shards: int, script: list[str], weight: int = 1) -> None:
        self.name, self.host, self.weight, self.pid = name, "here", weight, 1234
        self.path = None
        self.asked: list[tuple[int, range]] = []
        self.killed = self.closed = False
        self.on_close: Callable[[], None] = lambda: None
        self._dispatcher, self._num_shards, self._script = dispatcher, num_shards, deque(script)
        self._slots = np.zeros((reduction.max_subtrees(num_shards), P), "f4")
        self._event = os.eventfd(0, os.EFD_SEMAPHORE | os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._arrived: deque[Answer | Exception] = deque()

    def fileno(self) -> int:
        return self._event

    def start(self, step: int, shards: range, buffer: int, *, update_here: bool) -> None:
        assert not self.closed
        self.asked.append((step, shards))
        self._slots[:] = np.nan  # anything that still uses the last answer must have copied it
        behavior = self._script.popleft() if self._script else "answers"
        parameters = self._dispatcher.buffers[buffer]
        partials = []
        for slot, node in zip(self._slots, reduction.maximal_subtrees(shards, self._num_shards), strict=False):
            partial = subtree(node, step, parameters)
            slot[:] = partial.gradient
            partials.append(partial._replace(gradient=slot))
        answer = Answer(step, shards, partials)
        if behavior == "takes no parameters":
            raise PeerTimeoutError("took no more bytes")
        if behavior == "closed the connection":
            raise PeerLostError("broken pipe")
        if behavior == "dies":
            self.arrive(PeerLostError("end of stream"))
        elif behavior == "answers for another step":
            self.arrive(answer._replace(step=step - 1))
        elif behavior == "answers for other shards":
            self.arrive(answer._replace(shards=range(shards.start, shards.stop + 1)))
        elif behavior == "answer does not arrive":
            self.arrive(PeerTimeoutError("has computed its answer, which did not arrive"))
        elif behavior == "wakes up for nothing":
            self.arrive(BlockingIOError())
            self.arrive(answer)
        elif behavior == "fails":
            self.arrive(PeerFailedError("ValueError: bad rows"))
        elif behavior in DELAY_S:
            threading.Timer(DELAY_S[behavior], self.arrive, [answer]).start()
        elif behavior == "is silent":
            self.withheld = answer
        else:
            self.arrive(answer)
        if behavior == "answers and dies":
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
        self._slots[:] = np.nan  # its memory may now be reused by another peer
        os.close(self._event)
        self.on_close()


@dataclasses.dataclass
class Peers:
    """A dispatcher and its scripted peers, with a replacement for each lost one."""

    dispatcher: Dispatcher
    num_shards: int
    scripts: list[list[str]]
    replaces: bool = True

    def __post_init__(self) -> None:
        self.made: list[FakePeer] = []

    def add(self, weight: int = 1) -> FakePeer:
        number = len(self.made)
        script = self.scripts[number] if number < len(self.scripts) else []
        peer = FakePeer(f"peer {number}", self.dispatcher, self.num_shards, script, weight)
        if self.replaces:
            peer.on_close = lambda: self.add() and None
        self.made.append(peer)
        self.dispatcher.members.join(peer)
        return peer

    def close(self) -> None:
        self.replaces = False
        for peer in self.made:
            peer.on_close = lambda: None
        self.dispatcher.close()


def make_peers(
    scripts: list[list[str]], num_shards: int, *, count: int | None = None, timeout_s: float = LONG_S, **values
) -> Peers:
    """Return a dispatcher with `count` peers, by default as many as there are scripts."""
    defaults = {"deadlines": Deadlines.fixed(timeout_s), "arrival_timeout_s": LONG_S, "spin": False}
    dispatcher = Dispatcher(P, **defaults | values)
    dispatcher.buffers[:] = np.arange(1, 2 * P + 1).reshape(2, P)
    made = Peers(dispatcher, num_shards, scripts)
    for _ in range(len(scripts) if count is None else count):
        made.add()
    return made


@pytest.fixture
def peers_with():
    """`make_peers` for a test; closes the dispatcher afterwards."""
    made: list[Peers] = []

    def make(*arguments, **keywords) -> Peers:
        made.append(make_peers(*arguments, **keywords))
        return made[-1]

    yield make
    for peers in made:
        peers.close()


def check(peers: Peers, step: int, shards: range) -> None:
    """Exchange gradients and compare them with the serial ones."""
    dispatcher, buffer = peers.dispatcher, step % 2
    partials = dispatcher.exchange(step, buffer, shards)
    covered = [shard for lo, hi in sorted(partial.node for partial in partials) for shard in range(lo, hi)]
    assert covered == list(shards), "every shard exactly once"
    for root in reduction.maximal_subtrees(shards, peers.num_shards):
        total = reduction.sum_over(root, partials)
        expected = subtree(root, step, dispatcher.buffers[buffer])
        assert total.gradient.tobytes() == expected.gradient.tobytes()
        assert total[2:] == expected[2:]


@st.composite
def situations(draw):
    num_shards = draw(st.integers(1, 12))
    lo = draw(st.integers(0, num_shards - 1))
    hi = draw(st.integers(lo + 1, num_shards))
    scripts = draw(st.lists(st.lists(st.sampled_from(BEHAVIORS), max_size=4), max_size=8))
    return num_shards, range(lo, hi), scripts, draw(st.integers(0, 5)), draw(st.booleans())


@settings(max_examples=150)
@given(situations())
def test_every_shard_is_returned_once_with_the_serial_bits_whichever_peers_die(situation):
    num_shards, shards, scripts, count, spin = situation
    peers = make_peers(scripts, num_shards, count=count, timeout_s=SHORT_S, spin=spin)
    try:
        if not count:
            peers.add()
        for step in range(5):
            check(peers, step, shards)
            assert len({peer.fileno() for peer in peers.made if not peer.closed}) == peers.dispatcher.members.size()
        gone = [peer.name for peer in peers.made if peer.closed]
        assert sorted(lost.name for lost in peers.dispatcher.members.take_lost_peers()) == sorted(gone)
        assert not peers.dispatcher.members.take_lost_peers(), "each lost peer is told of once"
    finally:
        peers.close()


@pytest.mark.parametrize("order", list(itertools.permutations(["dies", "answers and dies", "answers"])))
def test_the_last_peer_left_computes_the_shards_of_the_others(peers_with, order):
    peers = peers_with([[behavior] for behavior in order], 7)
    peers.replaces = False
    for peer in peers.made:
        peer.on_close = lambda: None
    for step in range(3):
        check(peers, step, range(7))
    assert peers.dispatcher.members.size() == 1


def test_a_new_peer_computes_the_shards_when_all_have_died(peers_with):
    peers = peers_with([["dies"], ["closed the connection"], ["dies"]], 6)
    for peer in peers.made:
        peer.on_close = lambda: None
    threading.Timer(0.1, peers.add).start()
    check(peers, 0, range(6))
    (newcomer,) = peers.made[3:]
    assert sorted(shard for _, run in newcomer.asked for shard in run) == list(range(6))


def test_a_dispatcher_without_peers_waits_for_the_first(peers_with):
    peers = peers_with([], 4)
    threading.Timer(0.1, peers.add).start()
    began = time.monotonic()
    check(peers, 0, range(4))
    assert time.monotonic() - began < LONG_S / 2


def test_peers_that_are_dead_when_they_join_cost_no_time(peers_with):
    peers = peers_with([["closed the connection"], ["closed the connection"], ["closed the connection"]], 4, count=1)
    began = time.monotonic()
    check(peers, 0, range(4))
    assert time.monotonic() - began < LONG_S / 4
    assert [peer.closed for peer in peers.made] == [True, True, True, False]


def test_without_peers_the_step_fails_after_the_timeout(peers_with):
    peers = peers_with([], 4, arrival_timeout_s=SHORT_S)
    for _ in range(2):
        with pytest.raises(WorkerLostError, match=r"no worker is left in step 8, and none joined within 0\.05 s"):
            peers.dispatcher.exchange(7, 0, range(4))


def test_waiting_for_a_worker_can_be_interrupted(peers_with):
    peers = peers_with([], 4)
    threading.Timer(0.05, peers.dispatcher.members.interrupt).start()
    began = time.monotonic()
    with pytest.raises(InterruptedStepError):
        peers.dispatcher.exchange(0, 0, range(4))
    assert time.monotonic() - began < LONG_S / 2


def test_an_interrupt_does_not_affect_a_step_with_workers(peers_with):
    peers = peers_with([["answers late"], []], 4)
    peers.dispatcher.members.interrupt()
    check(peers, 0, range(4))
    assert not peers.dispatcher.members.take_lost_peers(), "who is late has the whole time"


def test_a_failed_computation_fails_the_step_and_loses_no_peer(peers_with):
    peers = peers_with([[], ["fails"]], 4)
    message = r"peer 1 on here failed in step 4: ValueError: bad rows"
    with pytest.raises(TrainingError, match=message):
        peers.dispatcher.exchange(3, 0, range(4))
    assert not peers.dispatcher.members.take_lost_peers()


def test_an_unresponsive_peer_is_killed_and_reported_with_its_shards(peers_with):
    peers = peers_with([["answers", "is silent"], []], 4, timeout_s=SHORT_S)
    for step in range(3):
        check(peers, step, range(4))
    assert [peer.killed for peer in peers.made] == [True, False, False]
    (lost,) = peers.dispatcher.members.take_lost_peers()
    assert (lost.name, lost.host, lost.pid, lost.step) == ("peer 0", "here", 1234, 2)
    assert lost.problem == "has not answered for 0.05 s while it computed shards 0 to 1"


def test_a_peer_that_takes_over_shards_gets_the_full_timeout(peers_with):
    peers = peers_with([["is silent"], ["answers", "answers late"]], 2, timeout_s=SHORT_S)
    check(peers, 0, range(2))
    assert [lost.name for lost in peers.dispatcher.members.take_lost_peers()] == ["peer 0"]


@pytest.mark.parametrize(
    ("behavior", "problem"),
    [
        ("dies", "died: end of stream"),
        ("closed the connection", "closed the connection: broken pipe"),
        ("answers for another step", "died: it answers for shards 0 of step 0"),
        ("answers for other shards", "died: it answers for shards 0 to 1 of step 1"),
    ],
)
def test_a_peer_lost_for_another_reason_is_not_killed(peers_with, behavior, problem):
    peers = peers_with([[behavior], []], 3)
    check(peers, 0, range(3))
    (lost,) = peers.dispatcher.members.take_lost_peers()
    assert (lost.name, lost.step, lost.problem) == ("peer 0", 1, problem)
    assert peers.made[0].closed
    assert not peers.made[0].killed


def test_a_peer_whose_answer_does_not_arrive_is_killed(peers_with):
    peers = peers_with([["answer does not arrive"], []], 3)
    check(peers, 0, range(3))
    (lost,) = peers.dispatcher.members.take_lost_peers()
    assert (lost.name, lost.problem) == ("peer 0", "has computed its answer, which did not arrive")
    assert [peer.killed for peer in peers.made] == [True, False, False]


def test_a_spurious_wakeup_does_not_lose_the_answer(peers_with):
    peers = peers_with([["wakes up for nothing"], []], 3)
    check(peers, 0, range(3))
    assert not peers.dispatcher.members.take_lost_peers()
    assert [len(peer.asked) for peer in peers.made] == [1, 1]


def test_an_idle_peer_that_wakes_the_server_for_nothing_is_not_waited_for(peers_with):
    peers = peers_with([[], ["answers late"], []], 2, timeout_s=SHORT_S)
    idle = peers.made[0]  # of three peers with two shards
    for step in range(3):
        idle.arrive(BlockingIOError())
        check(peers, step, range(2))
    assert idle.asked == []
    assert not peers.dispatcher.members.take_lost_peers()


def test_the_answer_of_a_peer_that_dies_later_in_the_step_remains_valid(peers_with):
    peers = peers_with([["answers and dies"], ["answers very late"]], 4)
    check(peers, 0, range(4))
    assert [peer.closed for peer in peers.made] == [True, False, False]
    assert [len(peer.asked) for peer in peers.made] == [1, 1, 0]


def test_a_peer_that_has_answered_is_not_waited_for(peers_with):
    """An answer is kept when its peer gets more work, and when the peer dies."""
    peers = peers_with([["answers", "answers and dies"], ["dies", "dies"], ["dies"], ["answers late"]], 13)
    for step in range(4):
        check(peers, step, range(13))


def after_a_step(peers: Peers) -> tuple[FakePeer, FakePeer]:
    """Do a step in which the first of two peers answers last; return both."""
    slowest, other = peers.made

    def receive() -> Answer:
        slowest.arrive(slowest.withheld)
        return FakePeer.receive(other)

    other.receive = receive
    check(peers, 0, range(peers.num_shards))
    del other.receive
    return slowest, other


def test_no_answer_is_received_before_the_slowest_peer_has_answered(monkeypatch, peers_with):
    """Waking up for each answer would take the core from a peer that is still computing."""
    monkeypatch.setattr(dispatcher, "SINGLE_PEER_WAIT_MS", 1000 * LONG_S)
    peers = peers_with([["is silent", "answers very late", "answers very late"], []], 4)
    slowest, other = after_a_step(peers)
    order = []
    slowest.arrive = lambda answer: (order.append("arrived"), FakePeer.arrive(slowest, answer))
    other.receive = lambda: (order.append("received"), FakePeer.receive(other))[1]
    for step in (1, 2):
        check(peers, step, range(4))
    assert order == 2 * ["arrived", "received"]


def test_a_death_is_noticed_while_the_slowest_peer_computes(peers_with):
    peers = peers_with([["is silent", "is silent"], ["answers", "dies"]], 3)
    slowest, other = after_a_step(peers)
    replace = other.on_close
    other.on_close = lambda: (replace(), slowest.arrive(slowest.withheld))
    began = time.monotonic()
    check(peers, 1, range(3))
    assert time.monotonic() - began < LONG_S / 2
    assert [lost.name for lost in peers.dispatcher.members.take_lost_peers()] == ["peer 1"]


class FakeClock:
    """Time in which nothing happens but the timeouts of a dispatcher's waits and what `later` is for."""

    def __init__(self, dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 0.0
        self.pause_s = 0.0
        """How much longer than its timeout the next wait takes, as if all processes were stopped meanwhile."""
        self._events: list[tuple[float, Callable[[], object]]] = []
        members = dispatcher.members
        self._poll, members.poll = members.poll, self
        self.register, self.unregister = self._poll.register, self._poll.unregister
        monkeypatch.setattr(exchange, "time", SimpleNamespace(monotonic=lambda: self.now_s))

    def later(self, delay_s: float, action: Callable[[], object]) -> None:
        self._events.append((self.now_s + delay_s, action))

    def poll(self, timeout_ms: float) -> list[tuple[int, int]]:
        end_s = self.now_s + timeout_ms / 1000
        ready = self._poll.poll(0)
        while not ready and (due := [event for event in self._events if event[0] <= end_s]):
            self._events.remove(event := min(due, key=lambda found: found[0]))
            self.now_s = event[0]
            event[1]()
            ready = self._poll.poll(0)
        if not ready:
            self.now_s, self.pause_s = end_s + self.pause_s, 0.0
        return ready


def answer_after(clock: FakeClock, peer: FakePeer, *delays_s: float) -> None:
    """Have a peer take so long for its next tasks; more of them are answered at once."""
    delays, start = deque(delays_s), peer.start

    def start_and_answer(*task, **how) -> None:
        start(*task, **how)
        if delays:
            clock.later(delays.popleft(), lambda: peer.arrive(peer.withheld))

    peer._script.extend(["is silent"] * len(delays_s))
    peer.start = start_and_answer


@pytest.fixture
def default_peers(monkeypatch, peers_with):
    """Two peers with the default timeouts, and a clock."""
    peers = peers_with([[], []], 4, deadlines=Deadlines.for_server("auto"))
    return peers, FakeClock(peers.dispatcher, monkeypatch)


def test_a_peer_that_hangs_is_named_after_ten_seconds(default_peers):
    peers, clock = default_peers
    peers.made[1]._script.extend(["answers", "is silent"])
    for step in range(3):
        check(peers, step, range(4))
    (lost,) = peers.dispatcher.members.take_lost_peers()
    assert (lost.name, lost.step) == ("peer 1", 2)
    assert lost.problem == "has not answered for 10 s while it computed shards 2 to 3"
    assert clock.now_s == pytest.approx(10)
    assert peers.made[1].killed


def test_each_peer_has_the_time_that_it_needs(default_peers):
    """A slow peer's steps take longer than a fast one may take that hangs, also in its first step."""
    peers, clock = default_peers
    answer_after(clock, peers.made[0], 59.0, 59.0, 590.0)
    peers.made[1]._script.extend(["answers", "answers", "is silent"])
    for step in range(3):
        check(peers, step, range(4))
    (lost,) = peers.dispatcher.members.take_lost_peers()
    assert (lost.name, lost.step) == ("peer 1", 3)
    assert lost.problem == "has not answered for 10 s while it computed shards 2 to 3"
    assert clock.now_s == pytest.approx(59 + 59 + 590)


def test_a_peer_that_takes_over_shards_has_longer_in_proportion(default_peers):
    peers, clock = default_peers
    peers.replaces = False
    peers.made[1].on_close = lambda: None
    answer_after(clock, peers.made[0], 2.0, 2.0, 30.0, 70.0)
    peers.made[1]._script.extend(["answers", "dies"])
    for step in range(3):
        check(peers, step, range(4))
    assert [lost.name for lost in peers.dispatcher.members.take_lost_peers()] == ["peer 1"]
    assert [len(run) for _, run in peers.made[0].asked] == [2, 2, 2, 4]


def test_a_peer_with_new_workers_has_as_long_as_in_its_first_step(default_peers):
    peers, clock = default_peers
    check(peers, 0, range(4))
    answer_after(clock, peers.made[0], 50.0)
    clock.later(0.1, lambda: peers.dispatcher.members.reweigh("peer 0", 2))  # it may be told of in the middle of a step
    check(peers, 1, range(4))
    answer_after(clock, peers.made[0], 50.0)
    peers.dispatcher.members.reweigh("peer 0", 3)
    check(peers, 2, range(4))
    assert not peers.dispatcher.members.take_lost_peers()


def test_an_answer_without_the_new_workers_does_not_shorten_their_first_step(default_peers):
    peers, clock = default_peers
    answer_after(clock, peers.made[0], 0.2, 0.2, 50.0)
    check(peers, 0, range(4))
    clock.later(0.1, lambda: peers.dispatcher.members.reweigh("peer 0", 2))
    check(peers, 1, range(4))
    check(peers, 2, range(4))
    assert not peers.dispatcher.members.take_lost_peers()


def test_a_pause_of_the_whole_machine_loses_nobody(default_peers):
    peers, clock = default_peers
    check(peers, 0, range(4))
    answer_after(clock, peers.made[0], 1005.0)  # it was stopped as well, and then takes its time
    clock.pause_s = 1000.0
    check(peers, 1, range(4))
    assert clock.now_s == pytest.approx(1005)
    assert not peers.dispatcher.members.take_lost_peers()


@pytest.mark.parametrize(
    ("weights", "sizes"),
    [([1, 1], [4, 4]), ([1, 3], [2, 6]), ([5, 1, 2], [5, 1, 2]), ([1], [8]), ([9], [8])],
)
def test_a_peer_gets_shards_for_all_workers_that_it_represents(peers_with, weights, sizes):
    peers = peers_with([], 8)
    for weight in weights:
        peers.add(weight)
    check(peers, 0, range(8))
    assert [len(peer.asked[0][1]) for peer in peers.made] == sizes
    assert peers.dispatcher.members.size() == sum(weights)


def test_more_workers_than_shards_leave_some_idle(peers_with):
    peers = peers_with([[], [], []], 2)
    for step in range(2):
        check(peers, step, range(2))
    assert sum(len(peer.asked) for peer in peers.made) == 4


def test_a_peer_with_more_weight_gets_more_shards_from_the_next_step_on(peers_with):
    peers = peers_with([[], []], 6)
    check(peers, 0, range(6))
    peers.dispatcher.members.reweigh("peer 1", 2)
    peers.dispatcher.members.reweigh("peer of another server", 9)
    assert peers.dispatcher.members.size() == 3
    check(peers, 1, range(6))
    assert [len(run) for _, run in peers.made[1].asked] == [3, 4]


def test_a_peer_that_joins_computes_from_the_next_step_on(peers_with):
    peers = peers_with([[]], 6)
    check(peers, 0, range(6))
    newcomer = peers.add()
    assert peers.dispatcher.members.size() == 2
    check(peers, 1, range(6))
    assert newcomer.asked == [(1, range(3, 6))]


def test_a_step_may_cover_any_contiguous_range_of_shards(peers_with):
    """An aggregator's shards change with the number of workers."""
    peers = peers_with([[], []], 11)
    for step, shards in enumerate([range(3, 9), range(3, 9), range(11), range(10, 11)]):
        check(peers, step, shards)


def test_closing_also_closes_peers_that_join_later():
    peers = make_peers([[], []], 4)
    check(peers, 0, range(4))
    peers.add()
    peers.close()
    assert all(peer.closed and not peer.killed for peer in peers.made)
    assert peers.dispatcher.members.size() == 0
    late = peers.add()
    assert late.closed
    assert peers.dispatcher.members.size() == 0
