"""A real Ray head as docker-compose.yml starts it: token authentication, dashboard, jobs; everything on 127.0.0.1."""

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
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mlflow_server import free_port

START_S = 90
STOP_S = 30
STORE_BYTES = 100 * 2**20


class RayHead:
    """`ray start --head` with its ports and its files, in a folder with a short name: paths of sockets are short."""

    def __init__(self, folder: Path, *, cpus: int, environment: Mapping[str, str]) -> None:
        self.folder, self._cpus = folder, cpus
        self.address = f"127.0.0.1:{free_port()}"
        self.dashboard = f"http://127.0.0.1:{free_port()}"
        self.agent = f"http://127.0.0.1:{free_port()}"
        token = folder / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        self._token = token.read_text()
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
        self.environment = inherited | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
            **environment,
        }

    def start(self) -> None:
        """Start it and wait until it takes jobs."""
        port, dashboard_port, agent_port = (
            address.rpartition(":")[2] for address in (self.address, self.dashboard, self.agent)
        )
        command = ["ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}"]
        command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard_port}"]
        command += [f"--dashboard-agent-listen-port={agent_port}", f"--temp-dir={self.folder}/r"]
        command += [f"--num-cpus={self._cpus}", f"--object-store-memory={STORE_BYTES}"]
        with open(self.folder / "head.log", "wb") as log:
            self._process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, cwd=self.folder)
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError):
                self.get("/api/jobs/")
                return
            time.sleep(0.2)
        raise RuntimeError(f"ray start did not come up: {(self.folder / 'head.log').read_text()[-2000:]}")

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
            command, env=self.environment, cwd=working_dir, capture_output=True, text=True, timeout=120, check=False
        )

    def job(self, name: str) -> dict[str, Any]:
        """Return what Ray knows of a job."""
        return self.get(f"/api/jobs/{name}")

    def processes(self) -> list[int]:
        """Return the processes that were started with this head's token, the head's own and its jobs'."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and str(self.folder).encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
        return found

    def stop(self) -> None:
        """End it and all that it started; AssertionError if something outlived it."""
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_S)
        deadline = time.monotonic() + STOP_S
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.1)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        assert not left, f"{len(left)} processes outlived their Ray head"


@contextlib.contextmanager
def ray_head(*, cpus: int, environment: Mapping[str, str]) -> Iterator[RayHead]:
    """Yield a running head; neither a process nor a file of it is left afterwards."""
    with tempfile.TemporaryDirectory(prefix="dj", dir="/tmp") as folder:
        head = RayHead(Path(folder), cpus=cpus, environment=environment)
        try:
            head.start()
            yield head
        finally:
            head.stop()
