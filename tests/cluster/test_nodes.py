"""Training on nodes with addresses of their own: the serial loop's answer, whatever becomes of a node."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from namespaces import unavailable
from nodes import Node, Nodes, ray_nodes
from runs import RAY_ENVIRONMENT, Cli, eventually, finished, journal, options, result, timeless

import distsgd

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

WORKER = "ray::WorkerActor"

BASE = {"model.hidden": 16, "train.num_shards": 7, "train.log_every": 7, "tracking.enabled": "false"}
"""Shards that no number of nodes divides."""

LONG = BASE | {"train.epochs": 120, "train.eval_every": 50}


@pytest.fixture(autouse=True)
def _allowed() -> None:
    if reason := unavailable():
        pytest.skip(reason)


def driver(cluster: Nodes, folder: Path) -> Cli:
    """Return the command on the cluster's head."""
    return Cli(folder, {**RAY_ENVIRONMENT, "RAY_ADDRESS": cluster.address}, prefix=cluster.inside())


def undisturbed(folder: Path, name: str, values: dict[str, Any]) -> Path:
    """Return the directory of a run of the serial loop."""
    distsgd.train(values | {"run.workers": 0, "run.dir": str(folder / name)})
    return folder / name


def assert_same(path: Path, expected: Path) -> None:
    assert result(path)["status"] == "FINISHED"
    assert result(path)["weights_sha256"] == result(expected)["weights_sha256"]
    assert timeless(path) == timeless(expected)


@pytest.mark.parametrize("workers", [(2,), (1, 2), (2, 1, 3)], ids=lambda counts: f"{len(counts)} nodes")
def test_one_answer_on_any_number_of_nodes(workers, own_folder):
    values = BASE | {"optim.momentum": 0.9, "optim.clip_norm": 0.5, "train.epochs": 4}
    with ray_nodes(workers, RAY_ENVIRONMENT) as cluster:
        cli = driver(cluster, own_folder)
        process = cli.start("train", "--run-dir=run", f"--workers={sum(workers)}", *options(values))
        placed = eventually(lambda: cluster.count(WORKER) == list(workers) or (process.poll() is not None and "ended"))
        ended = finished(process)
        assert ended.code == 0, ended.err
        assert placed is True
        assert "uses Ray calls" not in ended.err
        assert_same(own_folder / "run", undisturbed(own_folder, "serial", values))
        assert not cli.await_end()


LOSSES: dict[str, Callable[[Node], None]] = {
    "its raylet is killed": Node.kill_raylet,
    "all is killed": Node.kill,
    "its workers are killed": lambda node: node.kill(WORKER),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_the_loss_of_a_node_does_not_change_the_answer(loss, own_folder):
    with ray_nodes((1, 2, 1), RAY_ENVIRONMENT) as cluster:
        cli, path = driver(cluster, own_folder), own_folder / "run"
        process = cli.start("train", "--run-dir=run", "--workers=4", *options(LONG))
        assert eventually(lambda: process.poll() is not None or journal(path))
        assert cluster.count(WORKER) == [1, 2, 1]
        LOSSES[loss](cluster.nodes[1])
        ended = finished(process)
        assert ended.code == 0, ended.err
        assert "was lost" in ended.err
        assert "Traceback" not in ended.err
        assert_same(path, undisturbed(own_folder, "serial", LONG))
        assert not cli.await_end()
