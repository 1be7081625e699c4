"""Networks that fail between the nodes of a run: connections that stay open and say nothing any more."""

from __future__ import annotations

import pytest
from namespaces import unavailable
from nodes import ray_nodes
from runs import RAY_ENVIRONMENT, eventually, finished, journal, options
from test_nodes import LONG, WORKER, assert_same, driver, undisturbed

AGGREGATOR = "ray::AggregatorActor"


def stall_the_aggregator(cluster):
    for node in cluster.nodes:  # it is on the one that the server is not on
        node.stall(AGGREGATOR)


FAULTS = {
    "nothing from the server reaches it": lambda cluster: cluster.network.cut(0, 1),
    "nothing from it reaches the server": lambda cluster: cluster.network.cut(1, 0),
    "it is unplugged": lambda cluster: cluster.network.unplug(1),
    "its aggregator is stopped": stall_the_aggregator,
    "its workers are stopped": lambda cluster: cluster.nodes[1].stall(WORKER),
}


@pytest.mark.chaos
@pytest.mark.timeout(400)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_network_that_fails_does_not_change_the_answer(fault, own_folder):
    if reason := unavailable():
        pytest.skip(reason)
    with ray_nodes((2, 2), RAY_ENVIRONMENT) as cluster:
        cli, path = driver(cluster, own_folder), own_folder / "run"
        values = LONG | {"run.timeout_s": 3, "run.link": "tcp"}
        process = cli.start("train", "--run-dir=run", "--workers=4", *options(values))
        assert eventually(lambda: process.poll() is not None or journal(path))
        assert cluster.count(AGGREGATOR) in ([0, 1], [1, 0])
        FAULTS[fault](cluster)
        ended = finished(process, 300)
        assert ended.code == 0, ended.err
        assert "was lost" in ended.err
        assert "Traceback" not in ended.err
        assert_same(path, undisturbed(own_folder, "serial", LONG))
