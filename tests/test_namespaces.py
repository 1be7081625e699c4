"""The tests' own network: its nodes reach each other, its links fail as they are told to, and nothing of it remains."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import namespaces
import pytest
from namespaces import Network, has_netem, network, unavailable
from runs import eventually

ECHO = """
import socket, sys
with socket.create_server((sys.argv[1], 5000)) as server:
    print("ready", flush=True)
    while True:
        connection, _ = server.accept()
        while found := connection.recv(10**6):
            connection.sendall(found)
"""

ASK = """
import socket, sys
try:
    with socket.create_connection((sys.argv[1], 5000), timeout=0.3) as connection:
        connection.sendall(b"hello")
        print(connection.recv(100).decode())
except TimeoutError:
    print("silence")
"""

ROUND_TRIPS = """
import socket, sys, threading, time
with socket.create_connection((sys.argv[1], 5000)) as connection:
    times = []
    for _ in range(10):
        began = time.monotonic()
        connection.sendall(b"hello")
        assert connection.recv(100) == b"hello"
        times.append(time.monotonic() - began)
    sender = threading.Thread(target=connection.sendall, args=[bytes(3_000_000)])
    sender.start()
    missing = 3_000_000
    while missing:
        missing -= len(connection.recv(10**6))
    sender.join()
print(min(times))
"""


@pytest.fixture(scope="module")
def links() -> Iterator[Network]:
    if reason := unavailable():
        pytest.skip(reason)
    with network(3, rate="1gbit") as found:
        commands = [node.inside(sys.executable, "-S", "-c", ECHO, node.address) for node in found.nodes[:2]]
        processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
        for process in processes:
            with process.stdout as pipe:
                assert pipe.readline() == "ready\n"
        yield found
    assert [process.wait(10) for process in processes] == [-9, -9]


def ask(links: Network, source: int, target: int) -> str:
    command = links.nodes[source].inside(sys.executable, "-S", "-c", ASK, links.nodes[target].address)
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.strip()


def test_one_direction_is_cut_and_healed(links):
    assert ask(links, 1, 0) == ask(links, 0, 1) == "hello"
    links.cut(0, 1)
    assert ask(links, 1, 0) == "silence"  # what is asked arrives, and no answer
    assert ask(links, 2, 0) == ask(links, 2, 1) == "hello"
    links.heal(0, 1)
    assert ask(links, 1, 0) == ask(links, 0, 1) == "hello"


def test_a_node_is_separated_and_joined_again(links):
    links.unplug(1)
    assert ask(links, 0, 1) == "silence"
    assert ask(links, 2, 0) == "hello"
    links.plug(1)
    assert eventually(lambda: ask(links, 0, 1) == "hello", 10)


@pytest.mark.parametrize("netem", [False, True], ids=["a switch", "netem"])
def test_a_round_trip_takes_twice_the_delay(netem, monkeypatch):
    if reason := unavailable():
        pytest.skip(reason)
    if netem and not has_netem():
        pytest.skip("this kernel has no netem")
    monkeypatch.setattr(namespaces, "has_netem", lambda: netem)
    with network(2, delay_ms=5, rate="1gbit") as found:
        command = found.nodes[1].inside(sys.executable, "-S", "-c", ECHO, found.nodes[1].address)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            client = found.nodes[0].inside(sys.executable, "-S", "-c", ROUND_TRIPS, found.nodes[1].address)
            ended = subprocess.run(client, capture_output=True, text=True, timeout=30, check=True)
            process.kill()
    assert 0.01 <= float(ended.stdout) < 0.05


def test_nodes_with_cores_of_their_own_share_none():
    if reason := unavailable():
        pytest.skip(reason)
    script = "import os; print(*sorted(os.sched_getaffinity(0)))"
    count = min(2, len(os.sched_getaffinity(0)))
    with network(count, own_cores=True) as found:
        commands = [node.inside(sys.executable, "-S", "-c", script) for node in found.nodes]
        cores = [subprocess.run(c, capture_output=True, text=True, timeout=30, check=True).stdout for c in commands]
    assert sorted(int(core) for line in cores for core in line.split()) == sorted(os.sched_getaffinity(0))
    with pytest.raises(ValueError, match="8 nodes cannot have cores of their own: there are 1"), pinned_to_one():
        network(8, own_cores=True).__enter__()


@contextlib.contextmanager
def pinned_to_one() -> Iterator[None]:
    """Run with one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def test_processes_are_those_of_a_namespace_and_end_with_it():
    if reason := unavailable():
        pytest.skip(reason)
    with network(2) as found:
        process = subprocess.Popen(found.nodes[1].inside("sleep", "60"))
        assert eventually(lambda: found.nodes[1].processes() == [process.pid], 10)
        assert found.nodes[0].processes() == []
        names = [found.switch, *(node.name for node in found.nodes)]
        assert all(Path("/run/netns", name).exists() for name in names)
    assert process.wait(10) == -9
    assert not any(Path("/run/netns", name).exists() for name in names)


def test_what_a_killed_process_left_is_removed_by_the_next_network():
    if reason := unavailable():
        pytest.skip(reason)
    script = "import os, namespaces as n\nwith n.network(1) as a: print(a.switch, flush=True); os.kill(os.getpid(), 9)"
    command = [sys.executable, "-S", "-c", script]
    killed = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent, timeout=30, check=False)
    left = Path("/run/netns", killed.stdout.strip())
    assert left.exists()
    with network(1):
        assert not left.exists()


def test_the_reason_is_named_where_namespaces_are_not_allowed(monkeypatch):
    monkeypatch.setattr(namespaces.os, "geteuid", lambda: 1000)
    assert unavailable.__wrapped__() == "network namespaces need root"


@pytest.mark.parametrize("nodes", [0, 9])
def test_a_network_has_a_limited_number_of_nodes(nodes):
    with pytest.raises(ValueError, match=f"1 to 8 nodes, not {nodes}"), network(nodes):
        pass
