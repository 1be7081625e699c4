"""How many processes fit on the nodes of a cluster."""

from __future__ import annotations

import pytest

from distsgd.cluster.resources import Cluster


@pytest.mark.parametrize(
    ("gpus_of_nodes", "gpus", "expected"),
    [((0.0, 0.0), 0.0, 8), ((2.0, 0.0), 1.0, 2), ((2.0, 1.0), 0.4, 6), ((4.0, 3.0), 2.0, 3), ((1.0, 1.0), 0.1, 8)],
)
def test_a_fraction_of_a_gpu_is_of_a_single_one(gpus_of_nodes, gpus, expected):
    cluster = Cluster(
        cpus=8.0,
        gpus=sum(gpus_of_nodes),
        cpus_of_nodes=(4.0, 4.0),
        gpus_of_nodes=gpus_of_nodes,
        local=False,
        runtime_env={},
    )
    assert cluster.places(1, gpus) == expected
