"""Who may connect from another node: processes of the run, and nobody else, whatever they send or do not send."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_training import some_spec
from runs import eventually
from tcp_nodes import HOST, SECRET, TcpNode, listening

from distsgd.comm import tcp_acceptor, tcp_endpoint
from distsgd.comm.tcp_acceptor import TcpAcceptor, TcpAddress
from distsgd.comm.tcp_endpoint import CONNECT_ERRORS, TcpEndpoint
from distsgd.comm.tcp_greeting import HELLO, MAGIC, GreetingError, Introduction, Secret

SCALARS = st.none() | st.booleans() | st.integers() | st.text()
SOMEONE = Introduction("worker 7", "there", 1, 1)


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    """A refused client gives up soon."""
    monkeypatch.setattr(tcp_endpoint, "CONNECT_S", 1.0)


def strangers_hello(parameters: int) -> bytes:
    text = SOMEONE.encode()
    return HELLO.pack(MAGIC, bytes(32), parameters, len(text)) + text


@pytest.mark.parametrize("secret", [Secret.new(), Secret(SECRET.run, bytes(32)), Secret("another", SECRET.key)])
def test_a_wrong_secret_or_run_is_refused_by_the_client_already(secret):
    with listening() as node:
        with pytest.raises(GreetingError, match="does not know the secret of this run"):
            TcpEndpoint.connect(node.acceptor.address, secret, SOMEONE, node.spec.net.size)
        assert node.dispatcher.members.size() == 0


def test_a_client_does_not_talk_to_another_node_than_the_one_it_means():
    with listening() as node:
        address = node.acceptor.address._replace(node="another")
        with pytest.raises(GreetingError, match="does not know the secret"):
            TcpEndpoint.connect(address, SECRET, SOMEONE, node.spec.net.size)


def test_another_net_is_refused():
    with listening() as node, pytest.raises(CONNECT_ERRORS):
        TcpEndpoint.connect(node.acceptor.address, SECRET, SOMEONE, node.spec.net.size + 1)


def raw(address: TcpAddress) -> socket.socket:
    return socket.create_connection((address.host, address.port), timeout=5)


def test_a_replayed_greeting_is_refused():
    """What one client said is recorded, and said again: the server's nonce is another one."""
    with listening() as node:
        with raw(node.acceptor.address) as server, socket.create_server((HOST, 0)) as proxy:
            recorded: list[bytes] = []

            def relay() -> None:
                client, _ = proxy.accept()
                with client:
                    recorded.append(client.recv(4096))
                    server.sendall(recorded[0])
                    client.sendall(server.recv(4096))
                    recorded.append(client.recv(4096))
                    server.sendall(recorded[1])
                    client.sendall(server.recv(4096))

            thread = threading.Thread(target=relay)
            thread.start()
            address = node.acceptor.address._replace(port=proxy.getsockname()[1])
            TcpEndpoint.connect(address, SECRET, SOMEONE, node.spec.net.size).close()
            thread.join(30)
            assert eventually(lambda: node.dispatcher.members.size() == 1, 30)
        with raw(node.acceptor.address) as again:
            again.sendall(recorded[0])
            assert len(again.recv(64, socket.MSG_WAITALL)) == 64
            again.sendall(recorded[1])
            assert again.recv(1) == b""
        assert node.dispatcher.members.size() == 1


def test_a_reflected_proof_is_refused():
    with listening() as node, raw(node.acceptor.address) as sock:
        sock.sendall(strangers_hello(node.spec.net.size))
        challenge = sock.recv(64, socket.MSG_WAITALL)
        sock.sendall(challenge[32:])
        assert sock.recv(1) == b""
        assert node.dispatcher.members.size() == 0


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=300), st.booleans(), st.integers(0, 2**16 - 1))
def test_garbage_is_refused_at_once_or_at_the_deadline(fuzzed, begins_well, length):
    with _node() as node:
        head = HELLO.pack(MAGIC, bytes(32), node.spec.net.size, length) if begins_well else b""
        with raw(node.acceptor.address) as sock:
            with contextlib.suppress(OSError):  # it may be closed by then
                sock.sendall(head + fuzzed)
                sock.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionError):
                while sock.recv(4096):  # at most a challenge, and then the end
                    pass
        assert node.dispatcher.members.size() == 0


@contextlib.contextmanager
def _node() -> Iterator[TcpNode]:
    if not _NODES:
        _NODES.append(_STACK.enter_context(listening()))
    yield _NODES[0]


_STACK, _NODES = contextlib.ExitStack(), list[TcpNode]()


@pytest.fixture(autouse=True, scope="module")
def _closing() -> Iterator[None]:
    with _STACK:
        yield


def test_half_a_greeting_is_dropped_at_its_deadline(monkeypatch):
    monkeypatch.setattr(tcp_acceptor, "GREETING_S", 0.2)
    with listening() as node, raw(node.acceptor.address) as sock:
        sock.sendall(strangers_hello(node.spec.net.size)[:20])
        began = time.monotonic()
        assert sock.recv(1) == b""
        assert time.monotonic() - began < 3


def test_silent_connections_do_not_keep_a_worker_out(monkeypatch):
    """More connections than may greet at a time: the oldest are dropped, and a worker still comes in."""
    monkeypatch.setattr(tcp_acceptor, "GREETING_S", 60.0)
    threads = threading.active_count()
    with listening() as node, contextlib.ExitStack() as stack:
        silent = [stack.enter_context(raw(node.acceptor.address)) for _ in range(3 * tcp_acceptor.MAX_GREETINGS)]
        node.start_worker()
        assert node.server.run(3) == 3
        assert threading.active_count() <= threads + 2, "a thread for each connection"
        assert silent[0].recv(1) == b""
        silent[-1].setblocking(False)
        with pytest.raises(BlockingIOError):
            silent[-1].recv(1)


def test_the_first_free_port_of_a_range_is_taken():
    spec = some_spec()
    with socket.create_server((HOST, 0)) as taken, socket.create_server((HOST, 0)) as other:
        port = taken.getsockname()[1]
        other.close()

        def listen(ports: range) -> TcpAcceptor:
            return TcpAcceptor(HOST, ports, node="", parameters=spec.net.size, secret=SECRET, on_join=lambda *_: None)

        with pytest.raises(OSError, match=f"cannot listen on port {port} to {port} of 127.0.0.1: .*in use"):
            listen(range(port, port + 1))
        acceptor = listen(range(port, port + 20))
        try:
            assert acceptor.address.port in range(port + 1, port + 20)
        finally:
            acceptor.close()


def test_a_secret_is_not_shown():
    assert SECRET.key.hex() not in repr(SECRET)
    assert str(SECRET.key) not in repr(SECRET)


@given(st.recursive(SCALARS, lambda value: st.lists(value) | st.dictionaries(st.text(), value), max_leaves=5))
def test_an_introduction_is_checked(value):
    with pytest.raises(GreetingError):
        Introduction.decode(json.dumps(value).encode())


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": 1},
        {"host": None},
        {"pid": "1"},
        {"pid": 1.0},
        {"pid": -1},
        {"weight": True},
        {"weight": 0},
        {"weight": 2**40},
        {"more": 1},
    ],
    ids=str,
)
def test_each_field_of_an_introduction_is_checked(wrong):
    right = json.loads(SOMEONE.encode())
    assert Introduction.decode(json.dumps(right).encode()) == SOMEONE
    with pytest.raises(GreetingError):
        Introduction.decode(json.dumps(right | wrong).encode())


def test_only_the_nodes_own_address_is_listened_on():
    with listening() as node:
        port = node.acceptor.address.port
        found = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        assert {address for address in found if address.endswith(f":{port:04X}")} == {f"0100007F:{port:04X}"}
