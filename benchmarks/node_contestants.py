"""The contestants on several nodes, each node a network namespace of this machine with a raylet."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from benchmarks.contestants import CONTESTANTS as ON_ONE_NODE
from benchmarks.contestants import OURS, REPOSITORY, SLACK_S, Contestant, ContestantError, Settings, command
from benchmarks.shapes import Shape
from distsgd.core import numerics

sys.path.insert(0, str(REPOSITORY / "tests"))  # where the namespaces are made; its modules have bare names

from namespaces import DEVICE, Namespace, network
from nodes import ray_nodes

MASTER_PORT = 29500

LOOK_S = 0.05
END_S = 20.0
"""Seconds within which the other nodes' processes end after the first one's."""


@dataclass(frozen=True)
class NodeContestant:
    """A program on several nodes."""

    name: str
    label: str
    program: Contestant
    per_node: bool = False
    """Whether it is a process on each node that knows its rank, rather than a driver on the first node."""
    joins: bool = False
    """Whether its driver joins the cluster, rather than use the first node alone."""


_BY_NAME = {contestant.name: contestant for contestant in ON_ONE_NODE}

OURS_ONE_NODE = NodeContestant("one-node", "distsgd on one node", OURS)
OURS_NODES = NodeContestant("distsgd", "distsgd", OURS, joins=True)
SOCKETS = NodeContestant(
    "sockets", "plain sockets, the exchange alone", Contestant("sockets", "plain sockets", "sockets"), per_node=True
)
MESH = NodeContestant(
    "mesh", "distsgd's exchange alone", Contestant("mesh", "distsgd's connections", "mesh"), per_node=True
)

CONTESTANTS = (
    OURS_ONE_NODE,
    OURS_NODES,
    NodeContestant("ddp", "PyTorch DDP, gloo", _BY_NAME["ddp"], per_node=True),
    NodeContestant("ray", "Ray actors, NumPy", _BY_NAME["ray"], joins=True),
    SOCKETS,
    MESH,
)


def ray_environment(token: str) -> dict[str, str]:
    """Return what the processes of a cluster need, and whatever joins it: one thread for each worker."""
    return {
        "PYTHONPATH": str(REPOSITORY),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_USAGE_STATS_ENABLED": "0",
        **numerics.environment(1, None),
    }


@dataclass(frozen=True)
class Place:
    """Where contestants run."""

    nodes: Sequence[Namespace]
    cluster: str
    """The address of the nodes' Ray cluster; empty if there is none because no contestant joins it."""


@contextlib.contextmanager
def place_for(
    contestants: Sequence[NodeContestant], nodes: int, shared: Mapping[str, str], **links: Any
) -> Iterator[Place]:
    """Yield that many nodes, with a raylet each if one of the contestants joins their cluster.

    `links` are those that `namespaces.network` takes.
    """
    if any(contestant.joins for contestant in contestants):
        with ray_nodes([1] * nodes, shared, **links) as cluster:
            yield Place([node.namespace for node in cluster.nodes], cluster.address)
    else:
        with network(nodes, **links) as made:
            yield Place(made.nodes, "")


def environments(contestant: NodeContestant, addresses: Sequence[str], cluster: str) -> list[dict[str, str]]:
    """Return what each process of a contestant has in its environment; the first is on the first node, and so on."""
    if not contestant.per_node:
        return [{"RAY_ADDRESS": cluster} if contestant.joins else {}]
    common = {
        "WORLD_SIZE": str(len(addresses)),
        "MASTER_ADDR": addresses[0],
        "MASTER_PORT": str(MASTER_PORT),
        "GLOO_SOCKET_IFNAME": DEVICE,
        "NODE_ADDRESSES": ",".join(addresses),
    }
    return [common | {"RANK": str(rank)} for rank in range(len(addresses))]


def measure(
    contestant: NodeContestant,
    shape: Shape,
    data: Path,
    settings: Settings,
    place: Place,
    shared: Mapping[str, str],
) -> dict[str, Any]:
    """Run a contestant once, with `shared` in its environment, and return the JSON that its first process printed.

    Raises ContestantError, with the output of all its processes, if one failed.
    """
    addresses = [node.address for node in place.nodes]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | dict(shared)
    line = command(contestant.program, shape, data, settings)
    with contextlib.ExitStack() as stack:
        processes, outputs = [], []
        nodes = place.nodes
        if not (contestant.joins or contestant.per_node):
            nodes = [replace(nodes[0], cores=())]  # as many cores as all nodes have
        for node, own in zip(nodes, environments(contestant, addresses, place.cluster), strict=False):
            outputs.append(stack.enter_context(tempfile.TemporaryFile("w+")))
            process = subprocess.Popen(
                node.inside(*line),
                cwd=REPOSITORY,
                env=inherited | own,
                stdin=subprocess.DEVNULL,
                stdout=outputs[-1],
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            stack.callback(_end, process)
            processes.append(process)
        _await(processes, SLACK_S + settings.warm_up_s + settings.seconds)
        text = [_read(output) for output in outputs]
    if any(process.returncode for process in processes):
        codes = ", ".join(str(process.returncode) for process in processes)
        raise ContestantError(f"{contestant.name} at {shape} ended with exit code {codes}:\n{''.join(text)}")
    measured: dict[str, Any] = json.loads(text[0].splitlines()[-1])
    return measured


def _await(processes: Sequence[subprocess.Popen[bytes]], limit: float) -> None:
    """Wait until all processes have ended, or one failed, or the time is over."""
    deadline = time.monotonic() + limit
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        if processes[0].poll() is not None or any(process.poll() for process in processes):
            deadline = min(deadline, time.monotonic() + END_S)
        time.sleep(LOOK_S)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and its children, so that they do not disturb the next contestant."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _read(output: IO[str]) -> str:
    output.seek(0)
    return output.read()
