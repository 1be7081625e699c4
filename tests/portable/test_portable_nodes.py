"""One answer of `train.arithmetic=portable` on nodes with different kernels of BLAS, with a kill and a resume."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from namespaces import unavailable
from nodes import Nodes, ray_nodes
from runs import RAY_ENVIRONMENT, Cli, eventually, finished, journal, options, result, timeless

import distsgd

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

WORKER = "ray::WorkerActor"

VALUES = {
    "train.arithmetic": "portable",
    "model.hidden": 16,
    "optim.momentum": 0.9,
    "train.log_every": 7,
    "train.eval_every": 20,
    "tracking.enabled": "false",
}

KERNELS = ("Prescott", "Haswell")
"""Of the nodes' workers, different on purpose; every x86-64 processor of the last ten years runs both."""


def kernels(cluster: Nodes) -> list[set[str]]:
    """Return which kernels each node's workers were told to use."""
    return [{_variable(pid, "OPENBLAS_CORETYPE") for pid in node.processes(WORKER)} for node in cluster.nodes]


def _variable(pid: int, name: str) -> str:
    entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next((entry.decode().partition("=")[2] for entry in entries if entry.startswith(name.encode() + b"=")), "")


def train(cluster: Nodes, folder: Path, kernel: str, *arguments: str, **values: Any) -> Any:
    """Start a run on the cluster's head, in a driver with a kernel of its own."""
    environment = {**RAY_ENVIRONMENT, "RAY_ADDRESS": cluster.address, "OPENBLAS_CORETYPE": kernel}
    cli = Cli(folder, environment, prefix=cluster.inside())
    return cli.start("train", "--run-dir=run", "--workers=3", *arguments, *options(VALUES, **values))


def assert_silent(err: str) -> None:
    """AssertionError if something was said of kernels, or of arithmetic that differs."""
    assert "kernel" not in err
    assert "arithmetic" not in err


def test_nodes_with_different_kernels_and_a_resume_with_a_third_give_one_hash(own_folder):
    if reason := unavailable():
        pytest.skip(reason)
    path, of_nodes = own_folder / "run", [{"OPENBLAS_CORETYPE": kernel} for kernel in KERNELS]
    distsgd.train(VALUES | {"train.epochs": 120, "run.workers": 0, "run.dir": str(own_folder / "serial")})
    with ray_nodes((1, 2), RAY_ENVIRONMENT, of_nodes=of_nodes) as cluster:
        process = train(cluster, own_folder, "Sandybridge", train__epochs=120)
        assert eventually(lambda: process.poll() is not None or journal(path))
        assert kernels(cluster) == [{kernel} for kernel in KERNELS]
        os.kill(cluster.nodes[1].processes(WORKER)[0], signal.SIGKILL)  # which another node's kernel may take over
        steps = len(journal(path))
        assert eventually(lambda: process.poll() is not None or len(journal(path)) > steps + 5)
        assert process.poll() is None, "the run ended before the driver was killed"
        process.kill()
        assert_silent(finished(process).err)
        assert eventually(lambda: not any(cluster.count(WORKER)))
        resumed = train(cluster, own_folder, "Nehalem", "--resume", train__epochs=120, run__blas_kernel="Nehalem")
        assert eventually(lambda: resumed.poll() is not None or cluster.count(WORKER) == [1, 2])
        assert resumed.poll() is not None or kernels(cluster) == [{"Nehalem"}] * 2
        ended = finished(resumed)
        assert ended.code == 0, ended.err
        assert_silent(ended.err)
        assert result(path)["weights_sha256"] == result(own_folder / "serial")["weights_sha256"]
        assert timeless(path) == timeless(own_folder / "serial")
