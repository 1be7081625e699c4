"""Workers over TCP: the serial bits, whatever the connection does, and nobody but processes of the run."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_training import serial_parameters, some_spec, worker_of
from runs import eventually
from tcp_nodes import HOST, SECRET, TcpNode, listening, nodes_of

from distsgd.comm import tcp_endpoint
from distsgd.comm.aggregator import NodeAggregator
from distsgd.comm.tcp_endpoint import TcpEndpoint
from distsgd.comm.tcp_greeting import Introduction
from distsgd.comm.tcp_messages import ANSWER, TASK, sums
from distsgd.comm.tcp_stream import Stream
from distsgd.core.reduction import CanonicalSummation
from distsgd.engine.spec import RunSpec
from distsgd.errors import TrainingError, WorkerLostError

SOMEONE = Introduction("worker 7", "there", 1, 1)


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
        outer.start_worker(NodeAggregator(inner.dispatcher, CanonicalSummation(9)), weight=3)
        assert outer.server.run(20) == 20
        assert outer.server.parameters.tobytes() == serial_parameters(spec, 20)


RULES = st.sampled_from(
    [{}, {"optim__momentum": 0.9}, {"optim__momentum": 0.8, "optim__nesterov": True}, {"optim__schedule": "cosine"}]
)


def check_bits_of_nodes(data: st.DataObject) -> None:
    """Draw nodes, their workers, the number of shards, a net and a rule; compare some steps with the serial loop."""
    workers = [data.draw(st.integers(0 if number else 1, 3)) for number in range(data.draw(st.integers(1, 8)))]
    workers = [workers[0], *(count for count in workers[1:] if count)]
    num_shards = data.draw(st.integers(sum(workers), sum(workers) + 7))
    clip_norm = data.draw(st.sampled_from([None, 0.3]))
    hidden, features, classes = data.draw(st.tuples(st.integers(1, 40), st.integers(1, 30), st.integers(2, 6)))
    spec = some_spec(
        features=features,
        classes=classes,
        model__hidden=hidden,
        train__num_shards=num_shards,
        train__batch_size=data.draw(st.integers(num_shards, 64)),
        optim__clip_norm=clip_norm,
        **data.draw(RULES),
    )
    steps = data.draw(st.integers(1, 6))
    with nodes_of(spec, workers) as server:
        assert server.run(steps) == steps
        assert server.parameters.tobytes() == serial_parameters(spec, steps)


@settings(max_examples=10, deadline=None)
@given(st.data())
def test_any_nodes_and_workers_give_the_serial_bits(data):
    check_bits_of_nodes(data)


@pytest.mark.slow
@settings(max_examples=60 if os.environ.get("CI") else 200, deadline=None)
@given(st.data())
def test_two_hundred_cases_of_nodes_and_workers_give_the_serial_bits(data):
    check_bits_of_nodes(data)


class Failing:
    """A computer whose every answer is an error."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def compute(self, step, flat, shards, out):
        raise self._error

    def prefetch(self, step, shards, *, update_here):
        raise AssertionError("it never answers")


def test_an_error_of_a_computation_ends_the_run_with_its_text():
    with listening() as node:
        node.start_worker(Failing(ValueError("no such row")))
        with pytest.raises(TrainingError, match="worker 0 on there failed in step 1: ValueError: no such row"):
            node.server.run(3)


class FailingAhead(Failing):
    """A computer that answers, and then fails while it prepares the next step."""

    def __init__(self, spec: RunSpec, error: Exception) -> None:
        super().__init__(error)
        self.compute = worker_of(spec).compute

    def prefetch(self, step, shards, *, update_here):
        raise self._error


def test_an_error_between_steps_ends_the_run_with_its_text():
    with listening() as node:
        node.start_worker(FailingAhead(node.spec, ValueError("no such row")))
        with pytest.raises(TrainingError, match="worker 0 on there failed in step 2: ValueError: no such row"):
            node.server.run(3)


def test_an_aggregator_without_workers_is_lost_and_the_others_go_on():
    with listening() as node:
        node.start_worker(Failing(WorkerLostError("no worker is left in step 1")))
        node.start_worker()
        assert node.server.run(3) == 3
        assert node.lost() == [("worker 0", "died: no worker is left in step 1")]


@contextlib.contextmanager
def by_hand(node: TcpNode) -> Iterator[Stream]:
    """A peer of the run whose answers the test writes itself."""
    size = node.dispatcher.members.size()
    stream = TcpEndpoint.connect(node.acceptor.address, SECRET, SOMEONE, node.spec.net.size)
    assert eventually(lambda: node.dispatcher.members.size() == size + 1, 30)
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
        thread.join(30)
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
    assert problem.startswith("has not answered for 0.5 s while it computed shards")
    assert "by the connection from 127.0.0.1:" in problem


def test_a_peer_that_takes_no_parameters_is_lost_after_the_timeout():
    spec = some_spec(model__hidden=200_000)
    with listening(spec, timeout_s=2.0) as node:
        with by_hand(node):
            node.start_worker()
            assert node.server.run(1) == 1
            [(_, problem)] = node.lost()
        assert node.server.parameters.tobytes() == serial_parameters(spec, 1)
    assert re.fullmatch(r"the connection from 127.0.0.1:\d+ to 127.0.0.1:\d+ took no more bytes for 2 s", problem)


@pytest.mark.parametrize("timeout_s", [5.0, 0.1])
def test_a_worker_waits_longer_for_parameters_than_the_server_for_sending_them(timeout_s, monkeypatch):
    """A slow connection is a matter of `run.timeout_s`, on both sides."""
    monkeypatch.setattr(tcp_endpoint, "LEAST_TRANSFER_S", 0.2)
    spec = some_spec()
    with socket.create_server((HOST, 0)) as listener:
        worker = Stream(socket.create_connection(listener.getsockname()))
        server = Stream(listener.accept()[0])
    buffers, flat = np.empty((2, spec.net.size), np.float32), spec.start.parameters
    endpoint = TcpEndpoint(worker, buffers, CanonicalSummation(5), spin=False, role=("worker", 0), timeout_s=timeout_s)
    thread = threading.Thread(target=endpoint.serve, args=[worker_of(spec)])
    thread.start()
    server.send(TASK.pack(0, 0, 5), flat[:9], timeout_s=5)
    thread.join(0.5)
    if timeout_s > 0.2:
        server.send(flat[9:], timeout_s=5)
        head = bytearray(ANSWER.size)
        server.receive_within(head, 5)
        assert ANSWER.unpack(head)[:4] == (b"D", 0, 0, 5)
    else:
        assert not thread.is_alive()
    server.close()
    thread.join(30)
    assert not thread.is_alive()
