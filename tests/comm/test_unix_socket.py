"""Messages between two real processes: boundaries, end of stream, timeouts, and which users may connect."""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from distsgd.comm import spinning
from distsgd.comm.memory import Segment
from distsgd.comm.spinning import SPIN_S, WORKER_SPIN_S, SpinPolicy, spin
from distsgd.comm.unix_socket import (
    LONGEST,
    Connection,
    ConnectionClosedError,
    Listener,
    WaitTimeoutError,
)

CALLER = (
    "import os, sys, time\n"
    "from distsgd.comm.unix_socket import Connection, ConnectionClosedError\n"
    "from distsgd.comm.memory import Segment\n"
    "connection = Connection.to(sys.argv[1])\n"
)
"""The preamble of every script that connects."""

ECHO = CALLER + (
    "while True:\n"
    "    connection.wait(30)\n"
    "    try:\n"
    "        connection.send(connection.receive())\n"
    "    except ConnectionClosedError:\n"
    "        sys.exit(5)\n"
)

WRITE = CALLER + (
    "connection.wait(30)\n"
    "message, descriptors = connection.receive_descriptors(2)\n"
    "segments = [Segment.attach(descriptor, 1, 4, writable=True) for descriptor in descriptors]\n"
    "for number, segment in enumerate(segments):\n"
    "    segment.rows[:] = number + 1\n"
    "connection.send(message)\n"
    "connection.wait(30)\n"
)

WAIT_S = 30.0


def descriptors() -> int:
    """Return how many descriptors this process has open, without those that other tests have left to be collected."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener.open()
    yield made
    with contextlib.suppress(OSError):
        made.close()


@contextlib.contextmanager
def caller(listener: Listener, script: str) -> Iterator[tuple[subprocess.Popen[bytes], Connection]]:
    """Yield a process that runs `script`, and the connection to it."""
    with subprocess.Popen([sys.executable, "-c", script, listener.name]) as process:
        try:
            connection = listener.accept()
            try:
                yield process, connection
            finally:
                connection.close()
            process.wait(WAIT_S)
        finally:
            process.kill()


@pytest.fixture
def pair() -> Iterator[tuple[Connection, Connection]]:
    ends = [Connection(end) for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)]
    yield ends[0], ends[1]
    for end in ends:
        end.close()


def received(connection: Connection) -> bytes:
    connection.wait(WAIT_S)
    return connection.receive()


def test_message_boundaries_and_order_are_preserved(listener):
    messages = [b"a", bytes(LONGEST), b"bc", b"\0", bytes(range(256)) * 20]
    with caller(listener, ECHO) as (process, connection):
        for message in messages:
            connection.send(message)
        assert [received(connection) for _ in messages] == messages
        assert connection.peer_pid == process.pid
    assert process.returncode == 5, "the other side reads the end of the stream"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_peer_reads_as_the_end_of_the_stream_at_once(listener, number):
    with caller(listener, ECHO) as (process, connection):
        connection.send(b"there?")
        assert received(connection) == b"there?"
        process.send_signal(number)
        began = time.monotonic()
        connection.wait(WAIT_S)
        with pytest.raises(ConnectionClosedError):
            connection.receive()
        assert time.monotonic() - began < WAIT_S / 3
        with pytest.raises(ConnectionClosedError):
            connection.send(b"there?")


def test_a_peer_that_dies_with_unread_messages_counts_as_closed(listener):
    with caller(listener, CALLER + "time.sleep(60)") as (process, connection):
        connection.send(b"never read")
        process.kill()
        connection.wait(WAIT_S)
        with pytest.raises(ConnectionClosedError):
            connection.receive()


def test_sending_to_a_peer_that_does_not_read_fails_without_blocking(listener):
    with caller(listener, CALLER + "time.sleep(60)") as (process, connection):

        def send_all() -> None:
            for _ in range(10_000):
                connection.send(bytes(LONGEST))

        with pytest.raises(ConnectionClosedError):
            send_all()
        process.kill()


def test_descriptors_travel_with_a_message(listener):
    segments = [Segment.create(1, 4) for _ in range(2)]
    with caller(listener, WRITE) as (_, connection):
        connection.send(b"two", tuple(segment.descriptor for segment in segments))
        assert received(connection) == b"two"
    assert [segment.rows.tolist() for segment in segments] == [[[1] * 4], [[2] * 4]]
    for segment in segments:
        segment.close()


@pytest.mark.parametrize(("sent", "expected"), [(0, 2), (1, 2)])
def test_a_message_without_its_descriptors_is_refused_and_leaks_none(pair, sent, expected):
    segment = Segment.create(1, 1)
    before = descriptors()
    for _ in range(3):
        pair[0].send(b"message", (segment.descriptor,) * sent)
        with pytest.raises(ConnectionClosedError, match=f"{sent} descriptors, not {expected}"):
            pair[1].receive_descriptors(expected)
    assert descriptors() == before
    segment.close()


def test_waiting_for_descriptors_ends_with_the_stream(pair):
    pair[0].close()
    with pytest.raises(ConnectionClosedError, match="end of stream"):
        pair[1].receive_descriptors(2)


def test_a_wait_ends_at_its_timeout(pair):
    began = time.monotonic()
    with pytest.raises(WaitTimeoutError):
        pair[0].wait(0.05)
    assert time.monotonic() - began >= 0.05
    pair[1].send(b"now")
    pair[0].wait(0.0)
    assert pair[0].receive() == b"now"


@pytest.mark.parametrize("policy", [None, SpinPolicy(), SpinPolicy(SPIN_S, WORKER_SPIN_S)])
def test_an_unbounded_wait_ends_when_a_message_arrives(pair, policy):
    for number in range(30):
        later = threading.Timer(0.0002 * (number % 10), pair[1].send, [bytes([number])])
        later.start()
        pair[0].wait_unbounded(policy)
        assert pair[0].receive() == bytes([number])
        later.join()
    pair[1].close()
    pair[0].wait_unbounded(policy)
    with pytest.raises(ConnectionClosedError):
        pair[0].receive()


@pytest.mark.parametrize("limit_s", [SPIN_S, WORKER_SPIN_S])
def test_long_waits_stop_polling_and_short_ones_resume_it(limit_s):
    policy = SpinPolicy(limit_s)
    assert 0 < policy.spin_s() <= limit_s
    for _ in range(50):
        policy.learn(1.0)
    assert policy.spin_s() == 0
    for _ in range(50):
        policy.learn(0.4 * limit_s)
    assert 0.4 * limit_s < policy.spin_s() <= limit_s
    for _ in range(100):
        policy.learn(20e-6)
    assert 20e-6 < policy.spin_s() <= 100e-6


@pytest.mark.parametrize("slow", [0, 1])
def test_the_limit_is_used_with_which_steps_take_less_time(pair, slow, monkeypatch):
    now, usual_s = 0.0, WORKER_SPIN_S / 2
    monkeypatch.setattr(spinning.time, "perf_counter", lambda: now)
    policy, found = SpinPolicy(SPIN_S, WORKER_SPIN_S), []

    class Answer:
        """What `poll` gives in a step that takes twice as long with one of the limits."""

        def poll(self, timeout_ms: float | None = None) -> list[tuple[int, int]]:
            nonlocal now
            long = policy.spin_s() > SPIN_S
            found.append(long)
            now += usual_s * (2 if long == bool(slow) else 1)
            return [(0, select.POLLIN)]

    for _ in range(200):
        policy.wait(Answer())
    assert set(found[-100:]) == {not slow}


def test_spinning_ends_when_enough_descriptors_are_readable_or_time_is_up(pair):
    poll = select.poll()
    for end in pair:
        poll.register(end, select.POLLIN)
    durations = []
    for count in range(3):
        began = time.perf_counter()
        spin(poll, 1)
        durations.append(time.perf_counter() - began)
        if not count:
            pair[0].send(b"here")
    assert durations[0] >= SPIN_S
    assert min(durations[1:]) < SPIN_S
    began = time.perf_counter()
    spin(poll, 2)
    assert time.perf_counter() - began >= SPIN_S


def test_receiving_without_a_message_does_not_block(pair):
    with pytest.raises(BlockingIOError):
        pair[0].receive()


def test_connecting_to_an_unused_name_fails():
    before = descriptors()
    with pytest.raises(ConnectionRefusedError):
        Connection.to("distsgd-nobody")
    assert descriptors() == before


def test_names_are_secret_and_not_in_the_file_system(listener):
    other = Listener.open()
    other.close()
    assert other.name != listener.name
    assert len(listener.name) == len("distsgd-") + 32
    assert f"@{listener.name}" in Path("/proc/net/unix").read_text()
    assert not any(listener.name in str(path) for path in Path("/tmp").iterdir())


def test_closing_a_listener_wakes_a_blocked_accept(listener):
    errors = []

    def accept() -> None:
        try:
            listener.accept()
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=accept)
    thread.start()
    time.sleep(0.05)
    listener.close()
    thread.join(WAIT_S)
    assert len(errors) == 1
    with pytest.raises(ConnectionRefusedError):
        Connection.to(listener.name)


def test_connections_leak_no_descriptors(listener):
    before = descriptors()
    for _ in range(20):
        there = Connection.to(listener.name)
        here = listener.accept()
        there.close()
        with pytest.raises(ConnectionClosedError):
            here.receive()
        here.close()
    assert descriptors() == before


NOBODY = 65534

BECOME_NOBODY = f"import os, socket, sys\nos.setgroups([])\nos.setgid({NOBODY})\nos.setuid({NOBODY})\n"


def as_nobody(script: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Start a script as another user; skip where that is impossible."""
    if os.getuid() != 0:
        pytest.skip("only root can run a process as another user")
    become = [sys.executable, "-c", BECOME_NOBODY]
    tried = subprocess.run(become, capture_output=True, text=True, timeout=WAIT_S, check=False)
    if tried.returncode:
        pytest.skip(f"no process can run as another user here: {tried.stderr.splitlines()[-1]}")
    command = [sys.executable, "-c", BECOME_NOBODY + script, *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_a_process_of_another_user_is_refused(listener):
    script = (
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
        "s.connect('\\0' + sys.argv[1])\n"
        "s.settimeout(30)\n"
        "print(len(s.recv(10)))\n"
    )
    with as_nobody(script, listener.name) as process:
        before = descriptors()
        with pytest.raises(PermissionError, match=r"runs as user 65534, this one as 0"):
            listener.accept()
        assert descriptors() == before
        assert process.communicate(timeout=WAIT_S)[0] == b"0\n", "it reads the end of the stream"


def test_another_users_listener_is_not_trusted():
    script = (
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
        "s.bind('\\0distsgd-impostor')\n"
        "s.listen(1)\n"
        "print(flush=True)\n"
        "sys.stdin.read()\n"
    )
    with as_nobody(script) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(PermissionError, match="this one as 0"):
            Connection.to("distsgd-impostor")
        process.communicate(timeout=WAIT_S)
