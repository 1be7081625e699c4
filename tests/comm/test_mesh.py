"""The connections between the members of a view: what is not theirs, or not due, is refused; nobody waits for ever."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tcp_nodes import HOST, SECRET

from distsgd.comm.mesh import Mesh
from distsgd.comm.mesh_channel import CULPRIT, HEAD, ORDERS, Channel
from distsgd.comm.mesh_joining import AcceptedMembers, MeshError, join_mesh
from distsgd.comm.tcp_acceptor import TcpAcceptor
from distsgd.comm.tcp_greeting import Introduction
from distsgd.comm.tcp_stream import Stream
from distsgd.core.slices import SlicesBrokenError, View


@contextlib.contextmanager
def tcp_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server((HOST, 0)) as server, socket.create_connection(server.getsockname()) as one:
        other, _ = server.accept()
        with other:
            yield one, other


@contextlib.contextmanager
def channel(member: int = 1) -> Iterator[tuple[Channel, socket.socket]]:
    with tcp_pair() as (mine, theirs):
        yield Channel(member, "worker 7", Stream(mine), members=3), theirs


def arrived(found: Channel) -> bool:
    """Advance until all has arrived, for up to a second."""
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        if found.advance():
            return True
        time.sleep(0.001)
    return False


def test_a_vector_arrives_where_it_is_needed():
    with channel() as (found, other):
        target = np.zeros(3, np.float32)
        found.expect((b"N",), 4, [bytearray(1), target])
        other.sendall(HEAD.pack(b"N", 4, 13) + b"\x01" + np.arange(3, dtype="f4").tobytes())
        assert arrived(found)
        assert target.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("sent", "problem"),
    [
        (HEAD.pack(b"N", 3, 4), r"sends 4 bytes of kind b'N' for step 4, and not 4 of N for step 5, by the connection"),
        (HEAD.pack(b"D", 4, 4), r"sends 4 bytes of kind b'D' for step 5, and not 4 of N"),
        (HEAD.pack(b"N", 4, 5), r"sends 5 bytes of kind b'N' for step 5, and not 4 of N"),
        (HEAD.pack(b"N", 4, -1), r"sends -1 bytes"),
        (HEAD.pack(b"F", 4, 2**40), r"sends 1099511627776 bytes of kind b'F'"),
        (HEAD.pack(b"V", 4, 0), r"sends 0 bytes of kind b'V'"),
        (HEAD.pack(b"L", 4, 7) + bytes(7), r"sends 7 bytes of kind b'L'"),
        (HEAD.pack(b"L", 4, 11) + CULPRIT.pack(1) + b"why", "^why$"),
        (HEAD.pack(b"L", 4, 11) + CULPRIT.pack(3) + b"why", "^why$"),
        (HEAD.pack(b"L", 4, 11) + CULPRIT.pack(-1) + b"why", "^why$"),
    ],
)
def test_what_is_not_due_ends_the_view(sent, problem):
    with channel() as (found, other):
        found.expect((b"N",), 4, [np.zeros(1, np.float32)])
        other.sendall(sent)
        with pytest.raises(SlicesBrokenError, match=problem) as caught:
            arrived(found)
        assert (caught.value.member, caught.value.failed, caught.value.overdue) == (1, False, False)


def test_a_member_that_another_one_misses_is_the_problem_and_not_who_reports_it():
    with channel() as (found, other):
        found.expect((b"N",), 4, [np.zeros(1, np.float32)])
        other.sendall(HEAD.pack(b"L", 4, 27) + CULPRIT.pack(2) + b"worker 9 is silent!")
        with pytest.raises(SlicesBrokenError, match=r"^worker 7 reports: worker 9 is silent!$") as caught:
            arrived(found)
        assert (caught.value.member, caught.value.failed, caught.value.overdue) == (2, False, False)


def test_only_member_0_calls_off_a_step():
    for member, allowed in ((0, True), (2, False)):
        with channel(member) as (found, other):
            found.expect((b"D",), 4, [bytearray(24)])
            other.sendall(HEAD.pack(b"V", 4, 0))
            if allowed:
                assert arrived(found)
                assert found.kind == b"V"
            else:
                with pytest.raises(SlicesBrokenError, match="of kind b'V'"):
                    arrived(found)


KINDS = st.sampled_from([b"D", b"N", b"F", b"L", b"V", b"G", b"?"])


@settings(max_examples=150, deadline=None)
@given(
    garbage=st.binary(max_size=80)
    | st.builds(
        HEAD.pack, st.sampled_from([b"D", b"N", b"F", b"L", b"V", b"G", b"?"]), st.just(4), st.integers(-1, 70)
    ),
    orders=st.booleans(),
)
def test_garbage_is_refused_or_waited_for(garbage, orders):
    with channel(0) as (found, other):
        found.expect(ORDERS if orders else (b"D",), 4, () if orders else [bytearray(24), np.zeros(5, np.float32)])
        other.sendall(garbage)
        other.shutdown(socket.SHUT_WR)
        complete = False
        with contextlib.suppress(SlicesBrokenError):
            complete = arrived(found)
        if complete:
            kind, step, size = HEAD.unpack(garbage[: HEAD.size])
            assert (kind in (*ORDERS, b"V"), step, size) in {(True, 4, 0), (False, 4, 44)}


def some_streams(accepted: AcceptedMembers, keys: list[tuple[int, int]], stack: contextlib.ExitStack) -> list[Stream]:
    streams = []
    for view, member in keys:
        one, _ = stack.enter_context(tcp_pair())
        streams.append(Stream(one))
        accepted.add(streams[-1], Introduction("x", "there", 1, 1, view, member))
    return streams


def test_a_second_connection_and_those_of_earlier_views_are_closed():
    accepted = AcceptedMembers()
    with contextlib.ExitStack() as stack:
        first, second, early, later = some_streams(accepted, [(2, 1), (2, 1), (1, 2), (3, 1)], stack)
        assert second.fileno() == -1
        assert accepted.take(2, [1], 1.0) == {1: first}
        assert early.fileno() == -1
        assert accepted.take(3, [1], 1.0) == {1: later}


def test_a_member_that_does_not_come_is_named_after_some_seconds(monkeypatch):
    monkeypatch.setattr("distsgd.comm.mesh_joining.JOIN_S", 0.2)
    accepted = AcceptedMembers()
    acceptor = TcpAcceptor(HOST, range(0), node="n", parameters=9, secret=SECRET, on_join=accepted.add)
    try:
        with pytest.raises(MeshError, match=r"a was not reached by b and c at 127.0.0.1:"):
            join_mesh(
                View.of(1, [1, 1, 1], num_shards=3, parameters=9),
                0,
                names=["a", "b", "c"],
                addresses=[acceptor.address] * 3,
                secret=SECRET,
                accepted=accepted,
                parameters=9,
                timeout_s=1.0,
                spin=False,
            )
    finally:
        acceptor.close()


def test_a_member_that_says_nothing_is_overdue():
    with tcp_pair() as (mine, _):
        view = View.of(1, [1, 1], num_shards=2, parameters=64)
        mesh = Mesh(view, 0, {1: ("worker 3", Stream(mine))}, 64, timeout_s=0.3, spin=True)
        with pytest.raises(
            SlicesBrokenError, match=r"worker 3 has not sent its slice .* step 1 for 0.3 s, by the"
        ) as e:
            mesh.gather(0, np.zeros(64, np.float32), finite=True, hold=False)
        assert e.value.overdue


def test_why_a_member_leaves_is_read_although_it_takes_no_more_bytes():
    with channel() as (found, other):
        found.send(b"D", 4, np.zeros(16_000_000, np.float32))
        found.expect((b"D",), 4, [bytearray(24)])
        assert not found.advance()
        other.sendall(HEAD.pack(b"F", 4, 17) + CULPRIT.pack(1) + b"no memory")
        other.close()  # with unread bytes: this end can send nothing any more
        with pytest.raises(SlicesBrokenError, match=r"^no memory$") as e:
            arrived(found)
        assert e.value.failed


def test_a_member_that_waits_for_another_one_notices_that_the_server_has_ended_the_view():
    with tcp_pair() as (to_server, server), tcp_pair() as (to_other, _):
        view = View.of(1, [1, 1, 1], num_shards=3, parameters=96)
        streams = {0: ("the parameter server", Stream(to_server)), 2: ("worker 1", Stream(to_other))}
        mesh = Mesh(view, 1, streams, 96, timeout_s=30.0, spin=True)
        server.sendall(HEAD.pack(b"N", 4, 1 + 4 * 32) + bytes(1 + 4 * 32))
        server.shutdown(socket.SHUT_WR)
        began = time.monotonic()
        with pytest.raises(SlicesBrokenError, match="the parameter server has ended the view: the connection from"):
            mesh.gather(4, np.zeros(96, np.float32), finite=True, hold=False)
        assert time.monotonic() - began < 15


def test_who_is_never_waited_for_is_learned_from_too():
    with tcp_pair() as (to_quick, quick), tcp_pair() as (to_slow, slow):
        view = View.of(1, [1, 1, 1], num_shards=3, parameters=3)
        streams = {1: ("worker 0", Stream(to_quick)), 2: ("worker 1", Stream(to_slow))}
        mesh = Mesh(view, 0, streams, 3, timeout_s="auto", spin=False)
        message = HEAD.pack(b"D", 0, 24) + bytes(24)
        quick.sendall(message)
        assert select.select([to_quick], [], [], 5)[0]
        timer = threading.Timer(0.3, slow.sendall, [message])
        timer.start()
        mesh.scatter(0, [])
        timer.join()
        assert mesh._limit_s(2) < 60
