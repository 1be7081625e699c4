"""Malformed input: whatever arrives over the Unix socket, neither side hangs, leaks or raises an unexpected error."""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import os
import socket
import threading
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from plain_training import some_spec, worker_of
from runs import eventually

from distsgd.comm import messages
from distsgd.comm.acceptor import Acceptor
from distsgd.comm.deadlines import Deadlines
from distsgd.comm.dispatcher import Dispatcher
from distsgd.comm.endpoint import CONNECT_ERRORS, Endpoint
from distsgd.comm.memory import Segment
from distsgd.comm.messages import HEAD, HELLO, MAGIC, TASK, PeerSettings, reply_layout
from distsgd.comm.unix_socket import LONGEST, Connection, ConnectionClosedError, Listener
from distsgd.core import reduction
from distsgd.errors import TrainingError

SPEC = some_spec(train__num_shards=4)

P, SHARDS = SPEC.net.size, range(4)

WAIT_S = 30.0

INT64 = st.one_of(st.sampled_from([0, 1, 2, 3, 4, 5, P, -1, 2**31, 2**62, 2**63 - 1, -(2**63)]), st.integers(-9, 9))

MESSAGES = st.one_of(st.binary(min_size=1, max_size=100), st.sampled_from([bytes(LONGEST), bytes(LONGEST + 1)]))


def descriptors_open() -> int:
    return len(os.listdir("/proc/self/fd"))


def nothing_left(before: int) -> bool:
    """Return whether no more descriptors are open than before, after a garbage collection."""
    return descriptors_open() <= before or gc.collect() < 0 or descriptors_open() <= before


@st.composite
def mutated(draw, message: bytes) -> bytes:
    """A message that is truncated, extended, or changed in some bytes."""
    changed = bytearray(message)
    for _ in range(draw(st.integers(0, 3))):
        changed[draw(st.integers(0, len(changed) - 1))] = draw(st.integers(0, 255))
    return bytes(changed[: draw(st.integers(1, len(changed)))]) + draw(st.binary(max_size=5))


@st.composite
def descriptors(draw) -> list[str]:
    return draw(st.lists(st.sampled_from(["null", "pipe", "memory", "unsealed", "parameters", "slots"]), max_size=4))


@contextlib.contextmanager
def opened(kinds: Sequence[str]) -> Iterator[list[int]]:
    """Open a descriptor of each kind."""
    with contextlib.ExitStack() as stack:
        made = []
        for kind in kinds:
            if kind == "null":
                made.append(os.open("/dev/null", os.O_RDWR))
            elif kind == "pipe":
                read, write = os.pipe()
                stack.callback(os.close, read)
                made.append(write)
            elif kind == "unsealed":
                made.append(os.memfd_create("unsealed"))
                os.ftruncate(made[-1], os.fstat(slots := Segment.create(4, P).descriptor).st_size)
                stack.callback(os.close, slots)
            else:
                made.append(Segment.create({"memory": 1, "parameters": 2, "slots": 4}[kind], P).descriptor)
            stack.callback(os.close, made[-1])
        yield made


# A server, and arbitrary clients.


@contextlib.contextmanager
def server() -> Iterator[tuple[Dispatcher, Acceptor]]:
    """A dispatcher with one good worker, in a thread of this process."""
    dispatcher = Dispatcher(P, deadlines=Deadlines.fixed(WAIT_S), arrival_timeout_s=WAIT_S, spin=False)
    dispatcher.buffers[:] = SPEC.start.parameters
    acceptor = Acceptor(dispatcher, PeerSettings(P, len(SHARDS), spin=False))
    endpoint = Endpoint.connect(acceptor.address, 0, P)
    thread = threading.Thread(target=endpoint.serve, args=[worker_of(SPEC)])
    thread.start()
    try:
        assert eventually(lambda: dispatcher.members.size() == 1, WAIT_S)
        yield dispatcher, acceptor
    finally:
        acceptor.close()
        dispatcher.close()
        thread.join(WAIT_S)


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[Dispatcher, Acceptor]]:
    with server() as made:
        yield made


def connected(acceptor: Acceptor) -> socket.socket:
    caller = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    caller.settimeout(WAIT_S)
    caller.connect("\0" + acceptor.address)
    return caller


def step(dispatcher: Dispatcher, number: int) -> None:
    """Exchange gradients, and check that each shard is returned once."""
    partials = dispatcher.exchange(number, 0, SHARDS)
    covered = [shard for lo, hi in sorted(partial.node for partial in partials) for shard in range(lo, hi)]
    assert covered == list(SHARDS)


@settings(max_examples=100)
@given(
    sent=st.lists(st.one_of(MESSAGES, mutated(HELLO.pack(MAGIC, 9, P))), max_size=3),
    kinds=descriptors(),
)
@example(sent=[HELLO.pack(MAGIC, 2**63 - 1, P)], kinds=[])
@example(sent=[HELLO.pack(MAGIC, 9, P), b"D"], kinds=["pipe"])
def test_no_greeting_breaks_a_server(running, sent, kinds):
    dispatcher, acceptor = running
    before, accepted = descriptors_open(), b""
    with connected(acceptor) as caller, contextlib.suppress(ConnectionError), opened(kinds) as attached:
        for message in sent:
            socket.send_fds(caller, [message], attached)
        if sent:
            accepted = caller.recv(LONGEST)  # or the end of the stream
    lost: set[str] = set()

    def settled() -> bool:
        """Return whether a client with a valid greeting got a task and was lost because it closed the connection."""
        step(dispatcher, 0)
        lost.update(peer.name for peer in dispatcher.members.take_lost_peers())
        return dispatcher.members.size() == 1 and nothing_left(before) and bool(lost) == bool(accepted)

    assert eventually(settled, WAIT_S)
    assert lost == ({f"worker {HELLO.unpack(sent[0])[1]}"} if accepted else set())


@st.composite
def answers(draw) -> bytes:
    """An answer to a task of two shards that is garbage, or nearly valid."""
    head = (draw(st.sampled_from([b"D", b"F", b"\0", b"X"])), draw(INT64), draw(INT64), draw(INT64))
    sums = [value for _ in range(draw(st.integers(0, 3))) for value in (draw(st.floats()), draw(INT64), 1.0)]
    built = reply_layout(len(sums) // 3).pack(*head, *sums)
    return draw(st.one_of(st.just(built), mutated(built), MESSAGES))


@settings(max_examples=100)
@given(replies=st.lists(answers(), min_size=1, max_size=3))
@example(replies=[HEAD.pack(b"F", 0, 0, 2) + b"\xff\xfe\x1b[2J"])
@example(replies=[reply_layout(1).pack(b"D", 0, 2, 4, 1.0, 3, 3.0)] * 2)
def test_no_answer_breaks_a_server(replies):
    """Each shard is returned once, or the answer is the text of an error, which ends the run."""
    before = descriptors_open()
    converse(replies)
    assert eventually(lambda: nothing_left(before), WAIT_S)


def converse(replies: Sequence[bytes]) -> None:
    """Let a worker with a valid greeting send these as its answer, and another one compute its shards."""
    with server() as (dispatcher, acceptor), connected(acceptor) as caller:
        caller.send(HELLO.pack(MAGIC, 9, P))
        _, received, _, _ = socket.recv_fds(caller, LONGEST, 2)
        for descriptor in received:
            os.close(descriptor)
        assert eventually(lambda: dispatcher.members.size() == 2, WAIT_S)

        def reply() -> None:
            with contextlib.suppress(ConnectionError):
                caller.recv(LONGEST)
                for message in replies:
                    caller.send(message)
                caller.shutdown(socket.SHUT_RDWR)

        thread = threading.Thread(target=reply)
        thread.start()
        is_error = any(message.startswith(b"F") and len(message) >= HEAD.size for message in replies)
        with contextlib.suppress(TrainingError) if is_error else contextlib.nullcontext():
            step(dispatcher, 0)
            thread.join(WAIT_S)
            step(dispatcher, 1)  # by now its other messages, or the end of the stream, have been read
            assert dispatcher.members.size() == 1
            assert [peer.name for peer in dispatcher.members.take_lost_peers()] == ["worker 9"]
        thread.join(WAIT_S)


# A worker, and arbitrary servers.


@contextlib.contextmanager
def impostor(sent: Sequence[bytes], kinds: Sequence[str]) -> Iterator[Listener]:
    """A listener that sends messages, the first with descriptors, to every client."""
    listener = Listener.open()

    def talk() -> None:
        with contextlib.suppress(OSError):
            connection = listener.accept()
            with contextlib.suppress(ConnectionClosedError), opened(kinds) as attached:
                for message in sent:
                    connection.send(message, tuple(attached) if message is sent[0] else ())
            connection.close()

    thread = threading.Thread(target=talk)
    thread.start()
    try:
        yield listener
    finally:
        with contextlib.suppress(OSError):
            listener.close()
        thread.join(WAIT_S)
        assert not thread.is_alive()


GOOD = PeerSettings(P, len(SHARDS), spin=False)

JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=5,
)

SETTINGS = st.builds(
    lambda fields: json.dumps({"parameters": P, "num_shards": 4, "spin": False, "core": None} | fields).encode(),
    st.dictionaries(st.sampled_from(["parameters", "num_shards", "spin", "core", "more"]), JSON, max_size=2),
)


@settings(max_examples=100)
@given(
    sent=st.lists(st.one_of(MESSAGES, SETTINGS, mutated(GOOD.encode()), st.just(GOOD.encode())), max_size=2),
    kinds=st.one_of(descriptors(), st.just(["parameters", "slots"])),
)
@example(sent=[b"[" * LONGEST], kinds=["parameters", "slots"])
@example(sent=[b'{"a":' * 1000], kinds=["parameters", "slots"])
@example(sent=[json.dumps({"parameters": P, "num_shards": 10**300, "spin": 1}).encode()], kinds=["parameters", "slots"])
@example(
    sent=[json.dumps({"parameters": P, "num_shards": 4, "spin": False, "core": "x"}).encode()], kinds=["slots"] * 2
)
@example(sent=[GOOD.encode().replace(b"4", b'"4"')], kinds=["parameters", "slots"])
@example(sent=[GOOD.encode().replace(b"4", b"0")], kinds=["parameters", "slots"])
@example(sent=[GOOD.encode()], kinds=["parameters", "unsealed"])
@example(sent=[GOOD.encode()], kinds=["parameters", "slots"])
@example(sent=[GOOD.encode(), b"\x01"], kinds=["parameters", "slots", "null"])
def test_no_fake_server_makes_a_worker_raise_an_unexpected_error(sent, kinds):
    before = descriptors_open()
    with impostor(sent, kinds) as listener:
        try:
            endpoint = Endpoint.connect(listener.name, 0, P)
        except CONNECT_ERRORS:
            pass
        else:
            assert kinds == ["parameters", "slots"]
            endpoint.serve(worker_of(SPEC))
            del endpoint
    assert eventually(lambda: nothing_left(before), WAIT_S)


def test_connecting_to_a_silent_server_times_out(monkeypatch):
    monkeypatch.setattr(messages, "HANDSHAKE_S", 0.05)
    listener = Listener.open()
    with pytest.raises(CONNECT_ERRORS):
        Endpoint.connect(listener.name, 0, P)
    listener.close()


@settings(max_examples=100)
@given(
    tasks=st.lists(
        st.one_of(MESSAGES, st.builds(TASK.pack, INT64, INT64, INT64, INT64, INT64), mutated(TASK.pack(0, 0, 4, 0, 1))),
        min_size=1,
        max_size=4,
    )
)
@example(tasks=[TASK.pack(0, 0, 2**62, 0, 1)])
@example(tasks=[TASK.pack(0, -(2**63), 2**63 - 1, 0, 1)])
@example(tasks=[TASK.pack(2**63 - 1, 0, 4, 0, 1)])
@example(tasks=[TASK.pack(0, 0, 4, 2, 1)])
def test_no_task_breaks_a_worker(tasks):
    """It answers each with sums or the text of an error, and closes the connection after an invalid task."""
    server_end, worker_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    buffers, slots = Segment.create(2, P), Segment.create(reduction.max_subtrees(len(SHARDS)), P)
    endpoint = Endpoint(Connection(worker_end), buffers, slots, number=0, spin=False, core=None)
    thread = threading.Thread(target=endpoint.serve, args=[worker_of(SPEC)])
    received: list[bytes] = []
    with server_end:
        server_end.settimeout(WAIT_S)
        for task in tasks:
            server_end.send(task)
        server_end.shutdown(socket.SHUT_WR)
        thread.start()
        while not received or received[-1]:
            with contextlib.suppress(ConnectionResetError):  # raised once, before its remaining messages are read
                received.append(server_end.recv(LONGEST))
    received.pop()
    thread.join(WAIT_S)
    assert not thread.is_alive()
    buffers.close()
    slots.close()
    answered = list(itertools.takewhile(lambda task: len(task) == TASK.size, tasks))
    unasked = len(received) - len(answered)
    for task in answered:
        step, lo, hi, buffer, _ = TASK.unpack(task)
        kind, *about = HEAD.unpack_from(received.pop(0))
        assert about == [step, lo, hi]
        assert kind == b"F" or (0 <= lo < hi <= 4 and -2 <= buffer < 2)
        if unasked and kind == b"D" and HEAD.unpack_from(received[0]) == (b"F", *about):
            received.pop(0)  # it could not gather the rows of the step after that
            unasked -= 1
    assert not unasked
