"""Network namespaces joined by a bridge: nodes with addresses of their own on one machine, and links that can fail.

The bridge has a namespace of its own and no address, so that nothing of this is seen on the machine's own network, and
any number of networks with the same addresses may exist at the same time.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

PREFIX = "distsgd"

SUBNET = "10.77.0"

DEVICE = "eth0"
"""The interface of a node in its namespace."""

BRIDGE = "bridge0"

NOBODY = "02:00:00:00:00:00"
"""An Ethernet address that no interface has: what is sent to it is lost without a word."""

MOST = 8

SWITCH = str(Path(__file__).with_name("delaying_switch.py"))

_networks = itertools.count()


@functools.cache
def unavailable() -> str | None:
    """Return why there can be no network namespaces here, or None if there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if missing := [name for name in ("ip", "tc", "nsenter") if shutil.which(name) is None]:
        return f"there is no command {' and no '.join(missing)}"
    try:
        with network(2):
            return None
    except subprocess.CalledProcessError as error:
        return f"network namespaces are refused: `{' '.join(error.cmd)}`: {error.stderr.strip()}"


@dataclass(frozen=True)
class Namespace:
    """A node's namespace."""

    name: str
    address: str
    cores: tuple[int, ...] = ()
    """The cores that its processes may use; empty if all."""

    def inside(self, *command: str) -> list[str]:
        """Return the command line that runs `command` in this namespace, as the process that is started."""
        cores = ["taskset", "--cpu-list", ",".join(map(str, self.cores))] if self.cores else []
        return ["nsenter", f"--net={_path(self.name)}", *cores, *command]

    def processes(self) -> list[int]:
        """Return the processes that are in this namespace."""
        return _processes(self.name)

    def kill(self) -> None:
        """Kill all processes that are in this namespace."""
        _kill(self.name)


@dataclass(frozen=True)
class Network:
    """Namespaces, each of which reaches the others; numbers of nodes are their positions in `nodes`."""

    switch: str
    """The namespace of the bridge."""
    nodes: list[Namespace] = field(default_factory=list)

    def cut(self, source: int, target: int) -> None:
        """Lose, silently, whatever one node sends to another; the other direction is not touched."""
        neighbour = (self.nodes[target].address, "lladdr", NOBODY, "nud", "permanent", "dev", DEVICE)
        _ip(self.nodes[source].name, "neigh", "replace", *neighbour)

    def heal(self, source: int, target: int) -> None:
        """Undo `cut`."""
        neighbour = ("to", self.nodes[target].address, "dev", DEVICE, "nud", "permanent")
        _ip(self.nodes[source].name, "neigh", "flush", *neighbour)

    def unplug(self, node: int) -> None:
        """Separate a node from all others, in both directions."""
        for other in self._others(node):
            self.cut(node, other)
            self.cut(other, node)

    def plug(self, node: int) -> None:
        """Undo `unplug`."""
        for other in self._others(node):
            self.heal(node, other)
            self.heal(other, node)

    def _others(self, node: int) -> list[int]:
        return [other for other in range(len(self.nodes)) if other != node]


@contextlib.contextmanager
def network(
    nodes: int, *, delay_ms: float = 0.0, rate: str | None = None, own_cores: bool = False
) -> Iterator[Network]:
    """Yield that many joined namespaces; they and all processes in them are gone afterwards.

    `delay_ms` delays all that goes from one to another, so that a round trip takes twice as long in addition; `rate`,
    as in `10gbit`, limits what each node sends. With `own_cores`, no two nodes use the same core, as if they were
    machines. Raises CalledProcessError if the kernel refuses.
    """
    cores = sorted(os.sched_getaffinity(0))
    if not 1 <= nodes <= MOST:
        raise ValueError(f"a network has 1 to {MOST} nodes, not {nodes}")
    if own_cores and len(cores) < nodes:
        raise ValueError(f"{nodes} nodes cannot have cores of their own: there are {len(cores)}")
    _remove_stale()
    name = f"{PREFIX}-{os.getpid()}-{next(_networks)}"
    made = Network(f"{name}-s")
    with contextlib.ExitStack() as stack:
        _add(made.switch, stack)
        for number in range(nodes):
            own = tuple(cores[number * len(cores) // nodes : (number + 1) * len(cores) // nodes])
            made.nodes.append(Namespace(f"{name}-{number}", f"{SUBNET}.{number + 1}", own if own_cores else ()))
            _add(made.nodes[-1].name, stack)
        if delay_ms and not has_netem():
            stack.enter_context(_delaying_switch(made, delay_ms))
        else:
            _bridge(made, delay_ms)
        for node in made.nodes:
            _ip(node.name, "addr", "add", f"{node.address}/24", "dev", DEVICE)
            _ip(node.name, "link", "set", DEVICE, "up")
            if rate is not None:
                limit = ("root", "tbf", "rate", rate, "burst", "1mb", "latency", "50ms")
                _run("tc", "-n", node.name, "qdisc", "add", "dev", DEVICE, *limit)
        yield made


@functools.cache
def has_netem() -> bool:
    """Return whether the kernel can delay packets itself."""
    with contextlib.ExitStack() as stack:
        name = f"{PREFIX}-{os.getpid()}-{next(_networks)}"
        _add(name, stack)
        try:
            _run("tc", "-n", name, "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms")
        except subprocess.CalledProcessError:
            return False
        return True


def _add(name: str, stack: contextlib.ExitStack) -> None:
    _run("ip", "netns", "add", name)
    stack.callback(_remove, name)
    _ip(name, "link", "set", "lo", "up")


def _bridge(made: Network, delay_ms: float) -> None:
    """Join the nodes by a bridge of the kernel's."""
    _ip(made.switch, "link", "add", BRIDGE, "type", "bridge")
    _ip(made.switch, "link", "set", BRIDGE, "up")
    for number, node in enumerate(made.nodes):
        _ip(node.name, "link", "add", DEVICE, "type", "veth", "peer", "name", _port(number), "netns", made.switch)
        _ip(made.switch, "link", "set", _port(number), "master", BRIDGE, "up")
        if delay_ms:
            delay = ("root", "netem", "delay", f"{delay_ms}ms", "limit", "100000")
            _run("tc", "-n", made.switch, "qdisc", "add", "dev", _port(number), *delay)


@contextlib.contextmanager
def _delaying_switch(made: Network, delay_ms: float) -> Iterator[None]:
    """Join the nodes by a switch in a process of its own."""
    ports = [_port(number) for number in range(len(made.nodes))]
    program = ["nsenter", f"--net={_path(made.switch)}", sys.executable, "-S", SWITCH, str(delay_ms / 1e3), *ports]
    with subprocess.Popen(program, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise RuntimeError(f"the switch that delays frames ended with exit code {process.wait()}")
            for port, node in zip(ports, made.nodes, strict=True):
                _ip(made.switch, "link", "set", port, "netns", node.name, "name", DEVICE)
            yield
        finally:
            process.kill()


def _remove_stale() -> None:
    """Remove what is left of processes that were killed."""
    for path in Path("/run/netns").glob(f"{PREFIX}-*"):
        if not Path("/proc", path.name.split("-")[1]).exists():
            _remove(path.name)


def _remove(name: str) -> None:
    """Kill what runs in a namespace and remove it; its interfaces go with it."""
    _kill(name)
    with contextlib.suppress(subprocess.CalledProcessError):  # another process removed it as stale
        _run("ip", "netns", "del", name)


def _kill(name: str) -> None:
    while pids := _processes(name):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def _processes(name: str) -> list[int]:
    """Return the processes that are in a namespace; those that have ended, or whose parent has not noticed, are not."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        own = _path(name).stat()
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and os.path.samestat((entry / "ns" / "net").stat(), own):
                    found.append(int(entry.name))
    return found


def _path(name: str) -> Path:
    return Path("/run/netns", name)


def _port(number: int) -> str:
    """Return the name of a node's interface on the bridge's side."""
    return f"node{number}"


def _ip(name: str, *arguments: str) -> None:
    _run("ip", "-n", name, *arguments)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)
