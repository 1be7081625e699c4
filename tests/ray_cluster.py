"""A real Ray cluster as docker-compose.yml starts it: token authentication, dashboard, jobs; all of it on 127.0.0.1."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mlflow_server import free_port
from nodes import AT_ONCE
from runs import command

START_S = 90
STOP_S = 30
STORE_BYTES = 100 * 2**20


class RayCluster:
    """A head and workers' nodes, with their files in a folder with a short name: paths of sockets have to be short."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self._nodes: list[subprocess.Popen] = []
        self.address = f"127.0.0.1:{free_port()}"
        self.dashboard = f"http://127.0.0.1:{free_port()}"
        self.agent = f"http://127.0.0.1:{free_port()}"
        token = folder / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        self._token = token.read_text()
        self._faults = folder / "faults" / "faults.json"
        self._faults.parent.mkdir()
        self._faults.write_text("[]")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
        self.environment = inherited | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_JOB_STOP_WAIT_TIME_S": "30",
            "DISTSGD_FAULTS": str(self._faults),
            **AT_ONCE,
            **environment,
        }

    def inject(self, *faults: tuple[str, int]) -> None:
        """Have drivers be sent signals at steps, each once, in place of what was asked for before."""
        for struck in self._faults.parent.glob("*.struck"):
            struck.unlink()
        moments = [
            {"role": "driver", "index": 0, "step": step, "moment": "journaled", "signal": name} for name, step in faults
        ]
        self._faults.write_text(json.dumps(moments))

    def await_fault(self, number: int) -> None:
        """Wait until the fault of that number has been injected."""
        self._wait_until((self._faults.parent / f"{number}.struck").exists, 2 * START_S)

    def start(self, *, nodes: int) -> None:
        """Start the head and further nodes, each with one CPU, and wait until they take jobs."""
        self._start_head()
        for number in range(
            1, nodes
        ):  # each with a folder of its own, or they would delete each other's working copies
            folder = f"--temp-dir={self.folder}/{number}"
            self._start_node(f"--address={self.address}", f"--dashboard-agent-listen-port={free_port()}", folder)
        self._wait_until(lambda: len(self.get("/nodes?view=summary")["data"]["summary"]) == nodes)

    def _start_head(self) -> None:
        port, dashboard_port, agent_port = (
            address.rpartition(":")[2] for address in (self.address, self.dashboard, self.agent)
        )
        head = [
            "--head",
            f"--port={port}",
            f"--temp-dir={self.folder}/0",
            f"--dashboard-agent-listen-port={agent_port}",
        ]
        self._start_node(*head, "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard_port}")
        self._wait_until(lambda: self.get("/api/jobs/") is not None)

    def restart_head(self) -> None:
        """Kill all that runs on the only node, the head, and start it again at the same addresses."""
        (head,) = self._nodes
        for pid in self.processes():
            if "distsgd.cli submit" not in command(pid):  # which is elsewhere, as it were
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        head.wait(STOP_S)
        self._nodes.clear()
        self._start_head()

    def _start_node(self, *options: str) -> None:
        command = ["ray", "start", "--block", "--node-ip-address=127.0.0.1", "--num-cpus=1", *options]
        with open(self.folder / "log", "ab") as log:
            node = subprocess.Popen(
                [*command, f"--object-store-memory={STORE_BYTES}"],
                env=self.environment,
                stdout=log,
                stderr=log,
                cwd=self.folder,
            )
        self._nodes.append(node)

    def _wait_until(self, ready: Callable[[], bool], seconds: float = START_S) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and all(node.poll() is None for node in self._nodes):
            with contextlib.suppress(OSError):
                if ready():
                    return
            time.sleep(0.2)
        raise RuntimeError(f"ray start did not come up: {(self.folder / 'log').read_text()[-2000:]}")

    def get(self, path: str, *, token: str | None = None) -> Any:
        """Return what the dashboard answers, as JSON; OSError if it does not."""
        return self._ask("GET", path, token or self._token)

    def post(self, path: str) -> Any:
        """Ask the dashboard to do something and return its answer."""
        return self._ask("POST", path, self._token)

    def _ask(self, method: str, path: str, token: str) -> Any:
        headers = {"Authorization": f"Bearer {token}"}
        request = urllib.request.Request(self.dashboard + path, headers=headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=10) as reply:
                return json.load(reply)
        except urllib.error.HTTPError as error:
            error.close()
            raise

    def submit(self, working_dir: Path, name: str, *entrypoint: str, wait: bool = True) -> subprocess.CompletedProcess:
        """Run `ray job submit` to its end; without `wait`, to the job's beginning."""
        command = ["ray", "job", "submit", f"--address={self.dashboard}", f"--submission-id={name}"]
        command += [f"--working-dir={working_dir}"] + ([] if wait else ["--no-wait"]) + ["--", *entrypoint]
        return subprocess.run(
            command, env=self.environment, cwd=working_dir, capture_output=True, text=True, timeout=240, check=False
        )

    def job(self, name: str) -> dict[str, Any]:
        """Return what Ray knows of a job."""
        return self.get(f"/api/jobs/{name}")

    def processes(self) -> list[int]:
        """Return the processes that were started with this cluster's token, its own and its jobs'."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and str(self.folder).encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
        return found

    def stop(self) -> None:
        """End it and all that it started; AssertionError if something outlived it."""
        for node in reversed(self._nodes):  # the head comes last
            node.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                node.wait(STOP_S)
        deadline = time.monotonic() + STOP_S
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.1)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for node in self._nodes:
            node.wait()
        assert not left, f"{len(left)} processes outlived their Ray cluster"


@contextlib.contextmanager
def ray_cluster(*, nodes: int, environment: Mapping[str, str]) -> Iterator[RayCluster]:
    """Yield a running cluster; neither a process nor a file of it is left afterwards."""
    with tempfile.TemporaryDirectory(prefix="dj", dir="/tmp") as folder:
        cluster = RayCluster(Path(folder), environment)
        try:
            cluster.start(nodes=nodes)
            yield cluster
        finally:
            cluster.stop()
