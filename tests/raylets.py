"""A second node for a cluster on this machine: another raylet, whose workers are reached by an aggregator."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nodes import AT_ONCE
from runs import RAY_ENVIRONMENT, Cli, command, eventually

STORE_BYTES = 2**27


@dataclass(frozen=True)
class Raylet:
    """A node that has joined a cluster, and what it started."""

    cli: Cli
    process: subprocess.Popen[str]

    def kill(self) -> None:
        """Kill the raylet, as a power cut does a node: its workers end when they notice."""
        for pid in self.cli.processes():
            if "/raylet/raylet" in command(pid):
                os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def second_raylet(address: str, *, cpus: int) -> Iterator[Raylet]:
    """Yield a node that joins the cluster at `address`; neither a process nor a file of it is left afterwards."""
    with tempfile.TemporaryDirectory(prefix="dr", dir="/tmp", ignore_cleanup_errors=True) as name:
        cli = Cli(Path(name), RAY_ENVIRONMENT | AT_ONCE | {"PYTHONUNBUFFERED": "1"})
        arguments = ["start", f"--address={address}", "--node-ip-address=127.0.0.1", "--block", "--disable-usage-stats"]
        arguments += [f"--num-cpus={cpus}", f"--object-store-memory={STORE_BYTES}"]
        with open(Path(name) / "log", "w") as log:
            process = cli.start_python("-m", "ray.scripts.scripts", *arguments, stdout=log, stderr=log)
        try:
            started = eventually(lambda: "Ray runtime started" in (Path(name) / "log").read_text())
            assert started, (Path(name) / "log").read_text()
            yield Raylet(cli, process)
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            cli.kill()
            process.wait()
