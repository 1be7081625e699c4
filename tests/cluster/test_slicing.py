"""The driver makes views of the nodes of a run, and new ones when workers come and go."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from raylets import second_raylet
from runs import eventually, small_cluster

import distsgd
from distsgd.cluster.slicing import Slicing

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

BASE = {
    "train.num_shards": 6,
    "train.epochs": 20,
    "train.eval_every": 20,
    "tracking.enabled": False,
    "optim.momentum": 0.9,
    "optim.lr": 0.01,
}


@pytest.fixture(scope="module")
def head() -> Iterator[Any]:
    """This process is connected to a cluster of one node with two CPUs."""
    import ray

    with small_cluster(cpus=2) as found:
        ray.init(address=found.address, log_to_driver=False, logging_level="ERROR")
        try:
            yield found
        finally:
            ray.shutdown()


@pytest.fixture
def views(monkeypatch) -> list[tuple[int, int]]:
    """The views that servers have been given, and how many members each has."""
    found: list[tuple[int, int]] = []
    update = Slicing.update

    def recorded(self: Slicing, *args: Any, **kwargs: Any) -> None:
        update(self, *args, **kwargs)
        view = (self._number, len(self._wanted) - 1)
        if self.has_view and view not in found:
            found.append(view)

    monkeypatch.setattr(Slicing, "update", recorded)
    return found


def serial(folder: Any) -> str:
    return distsgd.train(BASE | {"run.workers": 0, "run.dir": str(folder / "serial")}).weights_sha256


def test_one_node_has_no_view(head, own_folder, views):
    found = distsgd.train(BASE | {"run.workers": 2, "run.dir": "run"})
    assert found.weights_sha256 == serial(own_folder)
    assert views == []


def test_a_node_that_joins_gets_a_slice_and_the_bits_stay(head, own_folder, views):
    import ray

    with ExitStack() as stack:
        stack.enter_context(second_raylet(head.address, cpus=1))
        assert eventually(lambda: ray.cluster_resources().get("CPU") == 3, 60), "the second node did not join"
        found = distsgd.train(BASE | {"run.workers": 3, "run.dir": "run", "run.link": "tcp"})
    assert found.weights_sha256 == serial(own_folder)
    assert views
    assert views[-1][1] == 2
    assert found.warnings == []
