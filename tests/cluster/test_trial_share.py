"""What of a cluster each trial of a sweep gets."""

from __future__ import annotations

import pytest

from distsgd.cluster.resources import Cluster
from distsgd.cluster.trial_pool import Share
from distsgd.config import Config
from distsgd.errors import ResourceError


def cluster(*nodes: float, gpus: float = 0) -> Cluster:
    of_nodes = (gpus, *(0.0 for _ in nodes[1:]))
    return Cluster(cpus=sum(nodes), gpus=gpus, cpus_of_nodes=nodes, gpus_of_nodes=of_nodes, local=False, runtime_env={})


def share(trials: int, nodes: tuple[float, ...], gpus: float = 0, **values: object) -> Share:
    values = {"train.num_shards": 8, "train.batch_size": 64} | {f"run.{key}": value for key, value in values.items()}
    return Share.of(Config.build(values), trials, cluster(*nodes, gpus=gpus))


@pytest.mark.parametrize(
    ("trials", "nodes", "count", "threads"),
    [
        (16, (4,), 4, 1),
        (2, (4,), 2, 2),
        (1, (4,), 1, 4),
        (1, (16,), 1, 8),  # no more than there are shards
        (1, (2, 2), 1, 2),  # not the 4 that the cluster has, since no node has them
        (2, (4, 4, 4), 2, 4),
        (4, (3, 3, 3), 4, 1),  # two each would fit three times
        (1, (1, 6), 1, 6),
        (5, (0, 2, 2.5), 4, 1),
    ],
)
def test_threads_of_a_trial_fit_on_a_node_and_all_trials_fit_at_once(trials, nodes, count, threads):
    found = share(trials, nodes, workers=0)
    assert found == Share(count=count, cpus=threads, threads=threads)


def test_workers_may_be_on_several_nodes():
    assert share(9, (2, 2, 2), workers=3).count == 2
    assert share(9, (3, 3), workers=1, blas_threads=2).count == 2
    assert share(9, (8,), 1, workers=2, device="cuda", gpus_per_worker=0.25).count == 2


def test_a_trial_that_fits_on_no_node_is_refused():
    with pytest.raises(ResourceError, match="a trial needs 4 CPUs of one node, and Ray has 6 CPUs and 0 GPUs on 2 nod"):
        share(1, (3, 3), workers=0, threads=4)
    with pytest.raises(ResourceError, match="needs 7 workers with 1 CPU of a node each, and Ray has 6 CPUs"):
        share(1, (3, 3), workers=7)
    with pytest.raises(ResourceError, match=r"2 nodes \(1 with 3 CPUs and 1 GPU, 1 with 4 CPUs and 0 GPUs\)"):
        share(1, (3, 4), 1, workers=2, device="cuda", gpus_per_worker=1)
