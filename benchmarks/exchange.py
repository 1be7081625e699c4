"""Between two raylets of this machine: a server's exchange with relays whose workers take no time, and real runs.

A program of its own, because Ray reads its token when it is imported: `benchmarks.scaling` starts it. A line of JSON
for each measurement, the fields of a cost_model.Point.
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
from distsgd import reduction
from distsgd.actors import Computing
from distsgd.links.crew import Crew
from distsgd.links.ray_calls import Courier, RayPeer
from distsgd.reduction import Partial

RELAYS = (1, 2, 4)

EXCHANGES = 40
"""Exchanges that the median is taken of, after a few that are not counted."""


STORE_BYTES = 2**30

START_S = 60.0


class EchoRelay(Computing):
    """A relay whose workers take no time."""

    def __init__(self, num_shards: int) -> None:
        self._num_shards = num_shards

    def compute(self, step: int, flat: np.ndarray, shards: range) -> list[Partial]:  # noqa: ARG002
        """Return the parameters in place of gradients."""
        return [Partial(node, flat, 0.0, 1) for node in reduction.roots(shards, self._num_shards)]


def exchange(parameters: int, relays: int, node: str) -> Point:
    """Return the median time in which a server sends parameters to relays on a node and has their gradients."""
    crew = Crew(parameters, timeout_s=60.0, patience_s=60.0, spin=False)
    courier = Courier(crew.buffers)
    strategy = NodeAffinitySchedulingStrategy(node, soft=False)
    actors: list[Any] = [
        ray.remote(EchoRelay).options(num_cpus=0, scheduling_strategy=strategy).remote(relays) for _ in range(relays)
    ]
    for number, actor in enumerate(actors):
        crew.join(RayPeer(actor, f"relay {number}", "here", 0, weight=1, courier=courier, num_shards=relays))
    durations = []
    for step in range(EXCHANGES + 5):
        began = time.perf_counter()
        crew.exchange(step, step % 2, range(relays))
        durations.append(time.perf_counter() - began)
    crew.close()
    for actor in actors:
        ray.kill(actor)
    return Point(parameters=parameters, relays=relays, seconds=statistics.median(durations[5:]))


@contextlib.contextmanager
def second_raylet(address: str, log: Path) -> Iterator[str]:
    """Start another node on this machine, with one CPU, and yield its id."""
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
    """Print a measurement."""
    click.echo(json.dumps(dataclasses.asdict(point)))
    sys.stdout.flush()


def main(folder: Path, seconds: float) -> None:
    """Measure everything, with files in `folder`."""
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
            for relays in RELAYS:
                tell(exchange(parameters, relays, node))
        os.environ["RAY_ADDRESS"] = address
        for shape in shapes():
            tell(dataclasses.replace(run(shape, 2, folder, seconds), workers=1, nodes=2))
    ray.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
