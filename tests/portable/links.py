"""Ways to train the same run over real connections: processes with different kernels, deaths, resumes, TCP, slices."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from plain_training import training
from sliced_nodes import sliced_nodes
from tcp_nodes import nodes_of

from distsgd.core import numerics
from distsgd.engine.server import ParameterServer
from distsgd.engine.spec import RunSpec
from distsgd.system.faults import VARIABLE, Fault
from portable.configurations import STEPS
from portable.ways import WORKERS, digest

NODES = ([1, 2], [2, 1, 1], [1, 1])
"""Workers on each node."""


def over_links(spec: RunSpec, number: int, kernels: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the name and the digest of several ways; `spec` records every step, and has a mini-batch of 8 at least."""
    draw, workers = random.Random(number), WORKERS[number % len(WORKERS)]
    yield (
        f"{workers} processes, one killed in a step, resumed; kernels mixed",
        in_processes(spec, workers, kernels, draw),
    )
    nodes = NODES[number % len(NODES)]
    with nodes_of(spec, nodes) as server:
        yield f"TCP, workers on nodes: {nodes}", _digest_after(spec, server, server.run)
    with sliced_nodes(spec, nodes) as sliced:
        sliced.head.server.run(2)
        sliced.offer()
        yield f"slices, workers on nodes: {nodes}", _digest_after(spec, sliced.head.server, sliced.head.server.run)
        assert sliced.head.server.slices() == (1, 0, "")


def in_processes(spec: RunSpec, workers: int, kernels: Sequence[str], draw: random.Random) -> str:
    """Return the digest of worker processes on one node, each with another kernel.

    The first one is killed within a step. In the middle the run is resumed, by processes with other kernels.
    """
    losses, start = list[float](), spec.start
    of_processes = itertools.cycle(draw.sample(list(kernels), len(kernels)))
    for until in (STEPS // 2, STEPS):
        begun = dataclasses.replace(spec, start=start)
        with killing(Fault("worker", 0, until - 3, draw.choice(["asked", "computed"]))) as (environment, struck):
            with training(begun, workers=0) as run:
                for _ in range(max(workers, 2)):  # one takes over
                    run.start_worker(environment | numerics.environment(1, next(of_processes)))
                run.await_workers(max(workers, 2))
                with np.errstate(all="ignore"):
                    assert run.server.run(until) == until
                losses += [record["train/loss"] for record in run.server.take_records()]
                start = run.server.snapshot()
            assert struck(), "no process was killed"
    return digest(spec, start, losses)


@contextlib.contextmanager
def killing(fault: Fault) -> Iterator[tuple[dict[str, str], Callable[[], bool]]]:
    """Yield the environment of processes that a fault is to be injected into, and what says whether it has been."""
    with tempfile.TemporaryDirectory(prefix="distsgd-") as folder:
        path = Path(folder) / "faults.json"
        path.write_text(json.dumps([dataclasses.asdict(fault)]))
        yield {VARIABLE: str(path)}, (Path(folder) / "0.struck").exists


def _digest_after(spec: RunSpec, server: ParameterServer, run: Callable[[int], int]) -> str:
    with np.errstate(all="ignore"):
        assert run(STEPS) == STEPS
    return digest(spec, server.snapshot(), [record["train/loss"] for record in server.take_records()])
