"""A Ray cluster of nodes with addresses of their own: a head in one network namespace, a raylet in each other."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from namespaces import Namespace, Network, network

from distsgd.system.scratch import scratch_folder

PORT = 6379
"""The head's; nobody else is in its namespace."""

START_S = 90.0
STOP_S = 20.0
STORE_BYTES = 2**28

AT_ONCE = {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}
"""For `ray start`, which after SIGTERM waits up to 30 seconds for what is on its node to end by itself."""


@dataclass(frozen=True)
class Node:
    """A node of a cluster, and all that runs on it."""

    namespace: Namespace
    process: subprocess.Popen[bytes]
    """`ray start`, which ends when the node does."""
    log: Path

    def processes(self, text: str = "") -> list[int]:
        """Return its processes, or those with a text in their command lines, such as `ray::WorkerActor`."""
        return [pid for pid in self.namespace.processes() if text in _command(pid)]

    def kill_raylet(self) -> None:
        """Kill its raylet: its workers end when they notice, and the head notices by the end of a connection."""
        self._signal(signal.SIGKILL, "/raylet/raylet")

    def kill(self, text: str = "") -> None:
        """Kill its processes, or those with a text in their command lines, at once."""
        self._signal(signal.SIGKILL, text)

    def stall(self, text: str = "") -> None:
        """Stop its processes, or those with a text in their command lines; their connections stay open."""
        self._signal(signal.SIGSTOP, text)

    def wake(self, text: str = "") -> None:
        """Undo `stall`."""
        self._signal(signal.SIGCONT, text)

    def _signal(self, number: signal.Signals, text: str) -> None:
        for pid in self.processes(text):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


@dataclass(frozen=True)
class Nodes:
    """A running cluster; the first node is the head, and drivers have to run there: `inside`."""

    network: Network
    nodes: list[Node]

    @property
    def address(self) -> str:
        """The cluster's address."""
        return f"{self.nodes[0].namespace.address}:{PORT}"

    def inside(self, *command: str) -> list[str]:
        """Return the command line that runs `command` on the head."""
        return self.nodes[0].namespace.inside(*command)

    def count(self, text: str) -> list[int]:
        """Return how many processes with a text in their command lines each node has."""
        return [len(node.processes(text)) for node in self.nodes]


@contextlib.contextmanager
def ray_nodes(
    cpus: Sequence[int],
    environment: Mapping[str, str],
    *,
    of_nodes: Sequence[Mapping[str, str]] = (),
    delay_ms: float = 0.0,
    rate: str | None = None,
    own_cores: bool = False,
) -> Iterator[Nodes]:
    """Yield a cluster with a node for each number of CPUs; neither a process nor a file of it is left afterwards.

    `environment` has what Ray's processes need, such as the token, `of_nodes` further variables for the first nodes;
    see `network` for `delay_ms`, `rate` and `own_cores`.
    """
    with (
        scratch_folder() as folder,  # which goes even if the tests are killed
        network(len(cpus), delay_ms=delay_ms, rate=rate, own_cores=own_cores) as links,
    ):
        cluster = Nodes(links, [])
        try:
            for number, count in enumerate(cpus):
                own = of_nodes[number] if number < len(of_nodes) else {}
                cluster.nodes.append(_start(folder, links, number, count, {**environment, **own}))
                if number == 0:
                    _await_start(cluster.nodes)
            _await_start(cluster.nodes)
            yield cluster
        finally:
            _stop(cluster.nodes)


def _start(folder: Path, links: Network, number: int, cpus: int, environment: Mapping[str, str]) -> Node:
    """Start a node, with a folder of its own for its files."""
    home, log, namespace = folder / f"h{number}", folder / f"log{number}", links.nodes[number]
    home.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    kept |= {"HOME": str(home), "TMPDIR": str(home), "PYTHONUNBUFFERED": "1"} | AT_ONCE
    options = ["--block", "--disable-usage-stats", f"--node-ip-address={namespace.address}", f"--num-cpus={cpus}"]
    options += [f"--temp-dir={folder}/{number}", f"--object-store-memory={STORE_BYTES}"]
    head = ["--head", f"--port={PORT}", "--include-dashboard=false"]
    options += [f"--address={links.nodes[0].address}:{PORT}"] if number else head
    command = namespace.inside(sys.executable, "-m", "ray.scripts.scripts", "start", *options)
    with open(log, "w") as file:
        process = subprocess.Popen(
            command, env=kept | dict(environment), stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd=home
        )
    return Node(namespace, process, log)


def _await_start(nodes: Sequence[Node]) -> None:
    """Wait until nodes run; RuntimeError, with what they printed, if one does not."""
    deadline = time.monotonic() + START_S
    for node in nodes:
        while "Ray runtime started" not in (text := node.log.read_text()):
            if node.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the node at {node.namespace.address} did not start: {text[-2000:]}")
            time.sleep(0.05)


def _stop(nodes: Sequence[Node]) -> None:
    """End all nodes, the head last."""
    for node in nodes:
        node.wake()
    for node in reversed(nodes):
        node.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            node.process.wait(STOP_S)
        node.namespace.kill()
        node.process.wait()


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""
