"""The aggregator with real workers, on one node and between two."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
from plain_training import some_spec, training, worker_of
from raylets import second_raylet
from runs import eventually, small_cluster

import distsgd
from distsgd.comm.aggregator import NodeAggregator
from distsgd.core import numerics
from distsgd.core.reduction import CanonicalSummation, PartialSum
from distsgd.errors import ResourceError, WorkerLostError
from distsgd.system.faults import VARIABLE


def parameters(size: int, step: int) -> np.ndarray:
    return np.random.default_rng(step).standard_normal(size, np.float32)


def same(found: list[PartialSum], expected: list[PartialSum]) -> bool:
    return [p._replace(gradient=p.gradient.tobytes()) for p in found] == [
        p._replace(gradient=p.gradient.tobytes()) for p in expected
    ]


@pytest.fixture
def alone():
    """A worker in this process, whose sums an aggregator has to reproduce, and its run."""
    spec = some_spec(train__num_shards=9)
    with numerics.pinned_blas(1, None):
        yield spec, worker_of(spec)


def test_an_aggregator_answers_as_one_worker_would(alone):
    spec, worker = alone
    with training(spec, workers=2) as found:
        aggregator = NodeAggregator(found.dispatcher, CanonicalSummation(9))
        for step, shards in enumerate([range(9), range(9), range(4), range(3, 9), range(8, 9)]):
            flat = parameters(spec.net.size, step)
            assert same(aggregator.compute(step, flat, shards), worker.compute(step, flat, shards))


def test_an_aggregators_sums_do_not_change_when_a_worker_dies(alone, tmp_path):
    spec, worker = alone
    faults = tmp_path / "faults.json"
    faults.write_text(json.dumps([{"role": "worker", "index": 1, "step": 3, "moment": "computed"}]))
    with training(spec, workers=1) as found:
        found.start_worker({VARIABLE: str(faults)})
        found.await_workers(2)
        aggregator = NodeAggregator(found.dispatcher, CanonicalSummation(9))
        for step in range(5):
            flat = parameters(spec.net.size, step)
            assert same(aggregator.compute(step, flat, range(2, 9)), worker.compute(step, flat, range(2, 9)))
        assert [lost.name for lost in found.dispatcher.members.take_lost_peers()] == ["worker 1"]


def test_an_aggregator_without_workers_fails_at_once(alone):
    spec, _ = alone
    with training(spec, workers=1, arrival_timeout_s=0.0) as found:
        aggregator = NodeAggregator(found.dispatcher, CanonicalSummation(9))
        found.processes[0].kill()
        for _ in range(2):
            with pytest.raises(WorkerLostError, match="no worker is left"):
                aggregator.compute(0, parameters(spec.net.size, 0), range(9))


# On two real nodes.

CASES: dict[str, dict[str, Any]] = {
    "in chunks": {"model.hidden": 400, "train.max_steps": 60, "optim.momentum": 0.9},
    "by the object store": {"model.hidden": 13_000, "train.max_steps": 6},
}

BASE = {"train.num_shards": 5, "tracking.enabled": False, "optim.lr": 0.01}


@pytest.fixture(scope="module")
def _two_nodes() -> Iterator[None]:
    """This process is connected to a cluster of two nodes with two CPUs each."""
    import ray

    with ExitStack() as stack:
        head = stack.enter_context(small_cluster(cpus=2))
        stack.enter_context(second_raylet(head.address, cpus=2))
        ray.init(address=head.address, log_to_driver=False, logging_level="ERROR")
        stack.callback(ray.shutdown)
        assert eventually(lambda: ray.cluster_resources().get("CPU") == 4), "the second node did not join"
        yield


@pytest.fixture(scope="module")
def serial(tmp_path_factory) -> dict[str, str]:
    """The hash of each case's weights, by the serial loop."""
    folder = tmp_path_factory.mktemp("serial")
    return {
        name: distsgd.train(BASE | values | {"run.workers": 0, "run.dir": str(folder / name)}).weights_sha256
        for name, values in CASES.items()
    }


def actors() -> dict[str, dict[str, Any]]:
    """Return Ray's records of all actors, including dead ones, by id."""
    from ray._private import state

    found: dict[str, dict[str, Any]] = state.actors()
    return found


def by_node(before: dict[str, Any]) -> list[list[str]]:
    """Return the classes of the actors that have been started since then, grouped by node."""
    nodes: dict[str, list[str]] = {}
    for actor, about in actors().items():
        if actor not in before:
            nodes.setdefault(about["Address"]["NodeID"], []).append(about["ActorClassName"])
    return sorted(sorted(classes) for classes in nodes.values())


WITH_SERVER = ["ServerActor", "WorkerActor", "WorkerActor"]


@pytest.mark.slow
@pytest.mark.usefixtures("_two_nodes")
@pytest.mark.parametrize("case", CASES)
def test_two_workers_on_another_node_are_reached_by_an_aggregator_with_the_same_bits(case, serial, own_folder):
    before = actors()
    found = distsgd.train(BASE | CASES[case] | {"run.workers": 4, "run.dir": "run", "run.link": "tcp"})
    assert found.weights_sha256 == serial[case]
    assert by_node(before) == [["AggregatorActor", "WorkerActor", "WorkerActor"], WITH_SERVER]


@pytest.mark.slow
@pytest.mark.usefixtures("_two_nodes")
@pytest.mark.parametrize("case", CASES)
def test_a_nodes_only_worker_is_connected_directly_with_the_same_bits(case, serial, own_folder):
    before = actors()
    found = distsgd.train(BASE | CASES[case] | {"run.workers": 3, "run.dir": "run", "run.link": "tcp"})
    assert found.weights_sha256 == serial[case]
    placed = by_node(before)
    if placed[0] == WITH_SERVER:  # else Ray has put the server beside the lone worker
        assert placed[1] == ["WorkerActor"]


@pytest.mark.slow
@pytest.mark.usefixtures("_two_nodes")
def test_plain_calls_to_two_nodes_give_the_same_bits(serial, own_folder):
    before = actors()
    found = distsgd.train(BASE | CASES["in chunks"] | {"run.workers": 3, "run.dir": "run", "run.link": "ray"})
    assert found.weights_sha256 == serial["in chunks"]
    assert not [classes for classes in by_node(before) if "AggregatorActor" in classes]


@pytest.mark.slow
@pytest.mark.usefixtures("_two_nodes")
@pytest.mark.parametrize("workers", [3, 4])
def test_without_a_free_port_ray_calls_are_used_and_a_line_says_so(workers, serial, own_folder):
    with socket.create_server(("0.0.0.0", 0)) as taken:  # on every address that the server's node may have
        port = str(taken.getsockname()[1])
        values = {"run.workers": workers, "run.dir": "run", "run.ports": port}
        found = distsgd.train(BASE | CASES["in chunks"] | values)
        assert found.weights_sha256 == serial["in chunks"]
        (line,) = [warning for warning in found.warnings if "by TCP" in warning]
        assert f"cannot listen on port {port} to {port} of " in line
        assert "uses Ray calls, which are slower: correct that" in line
        with pytest.raises(ResourceError, match=r"cannot reach the parameter server by TCP .* or set run.link=auto"):
            distsgd.train(BASE | CASES["in chunks"] | values | {"run.dir": "refused", "run.link": "tcp"})
