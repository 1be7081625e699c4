"""Workers over TCP: the serial bits, whatever the connection does, and nobody but processes of the run."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_training import serial_parameters, some_spec, worker_of
from runs import eventually

from distsgd.comm import tcp_acceptor
from distsgd.comm.aggregator import NodeAggregator
from distsgd.comm.dispatcher import Dispatcher
from distsgd.comm.tcp_acceptor import TcpAcceptor, TcpAddress
from distsgd.comm.tcp_endpoint import CONNECT_ERRORS, TcpEndpoint
from distsgd.comm.tcp_greeting import HELLO, MAGIC, GreetingError, Introduction, Secret
from distsgd.comm.tcp_messages import ANSWER, TASK, sums
from distsgd.comm.tcp_peer import TcpPeer
from distsgd.comm.tcp_stream import Stream
from distsgd.comm.unix_socket import ConnectionClosedError
from distsgd.core import numerics
from distsgd.engine.server import ParameterServer
from distsgd.engine.spec import RunSpec
from distsgd.errors import TrainingError, WorkerLostError

SECRET = Secret.new()
SCALARS = st.none() | st.booleans() | st.integers() | st.text()
SOMEONE = Introduction("worker 7", "there", 1, 1)
HOST = "127.0.0.1"


@dataclass
class Node:
    """A server in this thread that listens for others, which are threads."""

    spec: RunSpec
    dispatcher: Dispatcher
    acceptor: TcpAcceptor
    server: ParameterServer
    endpoints: list[TcpEndpoint] = field(default_factory=list)
    threads: list[threading.Thread] = field(default_factory=list)

    def start_worker(self, computer=None, weight: int = 1, *, wait: bool = True) -> TcpEndpoint:
        """Connect a worker, or what else computes, and return when the server knows it unless `wait` is false."""
        number, size = len(self.endpoints), self.dispatcher.members.size()
        introduction = Introduction(f"worker {number}", "there", 1000 + number, weight)
        stream = TcpEndpoint.connect(self.acceptor.address, SECRET, introduction, self.spec.net.size)
        buffers = np.empty((2, self.spec.net.size), np.float32)
        num_shards = self.spec.config.train.num_shards
        endpoint = TcpEndpoint(stream, buffers, num_shards, spin=number % 2 == 0, role=("worker", number))
        worker = worker_of(self.spec) if computer is None else computer
        self.threads.append(threading.Thread(target=endpoint.serve, args=[worker]))
        self.threads[-1].start()
        self.endpoints.append(endpoint)
        assert not wait or eventually(lambda: self.dispatcher.members.size() == size + weight, 5)
        return endpoint

    def end(self) -> None:
        self.acceptor.close()
        self.dispatcher.close()
        for thread in self.threads:
            thread.join(20)
            assert not thread.is_alive()

    def lost(self) -> list[tuple[str, str]]:
        return [(lost.name, lost.problem) for lost in self.dispatcher.members.take_lost_peers()]


@contextlib.contextmanager
def listening(spec: RunSpec | None = None, *, timeout_s: float = 20.0) -> Iterator[Node]:
    spec = some_spec() if spec is None else spec
    config = spec.config
    dispatcher = Dispatcher(spec.net.size, timeout_s=timeout_s, arrival_timeout_s=1.0, spin=False)

    def join(stream: Stream, introduction: Introduction) -> None:
        num_shards = config.train.num_shards
        dispatcher.members.join(TcpPeer(stream, introduction, dispatcher.buffers, num_shards, timeout_s=timeout_s))

    acceptor = TcpAcceptor(HOST, range(0), node="the head", parameters=spec.net.size, secret=SECRET, on_join=join)
    server = ParameterServer(config=config, net=spec.net, plan=spec.plan, start=spec.start, link=dispatcher)
    node = Node(spec, dispatcher, acceptor, server)
    try:
        with numerics.pinned_blas(1, None):
            yield node
    finally:
        node.end()


@pytest.mark.parametrize("workers", [1, 2, 3, 5])
def test_any_number_of_workers_gives_the_serial_bits(workers):
    with listening(some_spec(optim__momentum=0.9, optim__clip_norm=1.0)) as node:
        for _ in range(workers):
            node.start_worker()
        assert node.server.run(25) == 25
        assert node.server.parameters.tobytes() == serial_parameters(node.spec, 25)
        assert node.lost() == []


def test_vectors_longer_than_the_kernels_buffers_arrive_whole():
    spec = some_spec(model__hidden=200_000, train__num_shards=3)
    assert 4 * spec.net.size > 2**22
    with listening(spec) as node:
        for _ in range(2):
            node.start_worker()
        assert node.server.run(3) == 3
        assert node.server.parameters.tobytes() == serial_parameters(spec, 3)


def test_workers_that_come_and_go_change_nothing():
    with listening() as node:
        first = node.start_worker()
        node.server.run(5)
        node.start_worker()
        node.server.run(9)
        first.disconnect()
        assert node.server.run(20) == 20
        assert node.server.parameters.tobytes() == serial_parameters(node.spec, 20)
        [(name, problem)] = node.lost()
    assert name == "worker 0"
    assert "127.0.0.1" in problem


def test_an_aggregator_adds_in_the_order_of_the_tree():
    spec = some_spec(train__num_shards=9)
    with listening(spec) as outer, listening(spec) as inner:
        for _ in range(3):
            inner.start_worker()
        outer.start_worker()
        outer.start_worker(NodeAggregator(inner.dispatcher, 9), weight=3)
        assert outer.server.run(20) == 20
        assert outer.server.parameters.tobytes() == serial_parameters(spec, 20)


class Failing:
    """A computer whose every answer is an error."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def compute(self, step, flat, shards, out):
        raise self._error

    def prefetch(self, step, shards):
        raise AssertionError("it never answers")


def test_an_error_of_a_computation_ends_the_run_with_its_text():
    with listening() as node:
        node.start_worker(Failing(ValueError("no such row")))
        with pytest.raises(TrainingError, match="worker 0 on there failed in step 1: ValueError: no such row"):
            node.server.run(3)


def test_an_aggregator_without_workers_is_lost_and_the_others_go_on():
    with listening() as node:
        node.start_worker(Failing(WorkerLostError("no worker is left in step 1")))
        node.start_worker()
        assert node.server.run(3) == 3
        assert node.lost() == [("worker 0", "died: no worker is left in step 1")]


@contextlib.contextmanager
def by_hand(node: Node) -> Iterator[Stream]:
    """A peer of the run whose answers the test writes itself."""
    size = node.dispatcher.members.size()
    stream = TcpEndpoint.connect(node.acceptor.address, SECRET, SOMEONE, node.spec.net.size)
    assert eventually(lambda: node.dispatcher.members.size() == size + 1, 5)
    try:
        yield stream
    finally:
        stream.close()


def answer_to(step: int, shards: range, size: int, *, kind: bytes = b"D") -> bytes:
    return ANSWER.pack(kind, step, shards.start, shards.stop, size)


WRONG = {
    "an unknown kind": (lambda size: answer_to(0, range(5), size, kind=b"X"), "unknown kind"),
    "another step": (lambda size: answer_to(1, range(5), size), "shards 0 to 4 of step 2, which are not due"),
    "other shards": (lambda size: answer_to(0, range(1, 5), size), "shards 1 to 4 of step 1, which are not due"),
    "too long": (lambda size: answer_to(0, range(5), size + 8), "announces"),
    "negative": (lambda size: answer_to(0, range(5), -1), "announces"),
    "an endless error": (lambda _: answer_to(0, range(5), 2**40, kind=b"F"), "announces"),
    "half an answer": (lambda size: answer_to(0, range(5), size)[:10], "end of stream"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_peer_that_violates_the_protocol_is_lost_and_its_shards_are_computed_by_another(name):
    written, problem = WRONG[name]
    with listening() as node, by_hand(node) as stream:
        thread = threading.Thread(target=node.server.run, args=[4])
        thread.start()
        task, flat = bytearray(TASK.size), bytearray(4 * node.spec.net.size)
        stream.receive_within(task, 5)
        stream.receive_within(flat, 5)
        assert TASK.unpack(task) == (0, 0, 5)
        assert bytes(flat) == node.spec.start.parameters.tobytes()
        stream.send(written(sums(1).size), timeout_s=5)
        if name == "half an answer":
            stream.shut_down()
        node.start_worker(wait=False)
        thread.join(10)
        assert node.server.parameters.tobytes() == serial_parameters(node.spec, 4)
        [(lost, found)] = node.lost()
    assert lost == "worker 7"
    assert problem in found


def test_a_peer_that_does_not_answer_is_lost_after_the_timeout():
    with listening(timeout_s=0.5) as node:
        node.start_worker()
        with by_hand(node):
            assert node.server.run(2) == 2
            [(_, problem)] = node.lost()
    assert problem.startswith("has not answered for 0.5 s")


def test_a_peer_that_takes_no_parameters_is_lost_after_the_timeout():
    spec = some_spec(model__hidden=200_000)
    with listening(spec, timeout_s=2.0) as node:
        with by_hand(node):
            node.start_worker()
            assert node.server.run(1) == 1
            [(_, problem)] = node.lost()
        assert node.server.parameters.tobytes() == serial_parameters(spec, 1)
    assert "took no more bytes for 2 s" in problem


# Who may connect.


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
                    client.sendall(
                        server.recv(
                            4096,
                        )
                    )
                    recorded.append(client.recv(4096))
                    server.sendall(recorded[1])
                    client.sendall(server.recv(4096))

            thread = threading.Thread(target=relay)
            thread.start()
            address = node.acceptor.address._replace(port=proxy.getsockname()[1])
            TcpEndpoint.connect(address, SECRET, SOMEONE, node.spec.net.size).close()
            thread.join(5)
            assert eventually(lambda: node.dispatcher.members.size() == 1, 5)
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
def _node() -> Iterator[Node]:
    if not _NODES:
        _NODES.append(_STACK.enter_context(listening()))
    yield _NODES[0]


_STACK, _NODES = contextlib.ExitStack(), list[Node]()


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


def test_the_end_of_a_stream_names_both_ends():
    with socket.create_server((HOST, 0)) as listener:
        stream = Stream(socket.create_connection(listener.getsockname()))
        other, _ = listener.accept()
        # A reset in place of an orderly end.
        other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        other.close()
        port = listener.getsockname()[1]
        with pytest.raises(ConnectionClosedError, match=rf"from 127.0.0.1:\d+ to 127.0.0.1:{port} ended: .*reset"):
            stream.receive_within(bytearray(1), 5)
        stream.close()
