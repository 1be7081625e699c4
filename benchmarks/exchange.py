"""Measurements between two local raylets: exchanges with aggregators whose workers take no time, and real runs.

This is a separate program, started by `benchmarks.scaling`, because Ray reads its token on import. It prints each
measurement as a line of JSON with the fields of `cost_model.Point`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from benchmarks.cost_model import Point
from benchmarks.scaling_runs import run, shapes
from distsgd.cluster.gradient_actors import GradientActor
from distsgd.comm.deadlines import Deadlines
from distsgd.comm.dispatcher import Dispatcher
from distsgd.comm.ray_calls import ParameterChunks, RayPeer
from distsgd.core import reduction
from distsgd.core.reduction import PartialSum

AGGREGATORS = (1, 2, 4)

EXCHANGES = 40
"""Exchanges in the median; a few warm-up exchanges before them are not counted."""


STORE_BYTES = 2**30

START_S = 60.0


class EchoAggregator(GradientActor):
    """An aggregator whose workers take no time."""

    def __init__(self, num_shards: int) -> None:
        self._num_shards = num_shards

    def compute(self, step: int, flat: np.ndarray, shards: range) -> list[PartialSum]:  # noqa: ARG002
        """Return the parameters instead of gradients."""
        return [PartialSum(node, flat, 0.0, 1, 1.0) for node in reduction.maximal_subtrees(shards, self._num_shards)]


def exchange(parameters: int, aggregators: int, node: str) -> Point:
    """Return the median time for a server to send parameters to aggregators on a node and receive their gradients."""
    dispatcher = Dispatcher(parameters, deadlines=Deadlines.fixed(60.0), arrival_timeout_s=60.0, spin=False)
    parameter_chunks = ParameterChunks(dispatcher.buffers)
    strategy = NodeAffinitySchedulingStrategy(node, soft=False)
    actors: list[Any] = [
        ray.remote(EchoAggregator).options(num_cpus=0, scheduling_strategy=strategy).remote(aggregators)
        for _ in range(aggregators)
    ]
    for number, actor in enumerate(actors):
        dispatcher.members.join(
            RayPeer(
                actor,
                f"aggregator {number}",
                "here",
                0,
                weight=1,
                parameter_chunks=parameter_chunks,
                num_shards=aggregators,
                timeout_s=60.0,
            )
        )
    durations = []
    for step in range(EXCHANGES + 5):
        began = time.perf_counter()
        dispatcher.exchange(step, step % 2, range(aggregators))
        durations.append(time.perf_counter() - began)
    dispatcher.close()
    for actor in actors:
        ray.kill(actor)
    return Point(parameters=parameters, aggregators=aggregators, seconds=statistics.median(durations[5:]))


@contextlib.contextmanager
def second_raylet(address: str, log: Path) -> Iterator[str]:
    """Start a second Ray node with one CPU on this machine and yield its id."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", f"--address={address}", "--num-cpus=1", "--block"]
    with open(log, "w") as file, subprocess.Popen(command, stdout=file, stderr=file) as process:
        try:
            deadline = time.monotonic() + START_S
            while len(nodes := [str(node["NodeID"]) for node in ray.nodes() if node["Alive"]]) < 2:
                if time.monotonic() > deadline:
                    raise click.ClickException(f"the second node did not join:\n{log.read_text()}")
                time.sleep(0.1)
            yield next(node for node in nodes if node != ray.get_runtime_context().get_node_id())
        finally:
            process.terminate()


def tell(point: Point) -> None:
    """Print a measurement as a line of JSON."""
    click.echo(json.dumps(dataclasses.asdict(point)))
    sys.stdout.flush()


def main(folder: Path, seconds: float) -> None:
    """Take all measurements, with temporary files in `folder`."""
    head = ray.init(
        address="local",
        num_cpus=1,
        object_store_memory=STORE_BYTES,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        _temp_dir=str(folder / "r"),
    )
    address = head.address_info["gcs_address"]
    with second_raylet(address, folder / "second.log") as node:
        for parameters in sorted({shape.parameters for shape in shapes()}):
            for aggregators in AGGREGATORS:
                tell(exchange(parameters, aggregators, node))
        os.environ["RAY_ADDRESS"] = address
        for shape in shapes():
            tell(dataclasses.replace(run(shape, 2, folder, seconds), workers=1, nodes=2))
    ray.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
