"""A run that is submitted from this machine, and what there is of it afterwards: bits, journal, MLflow, PostgreSQL."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.compose.podman import check, run, until
from tests.compose.stack import Stack

DASHBOARD = "http://127.0.0.1:8265"
CONFIG = "jobs/digits.toml"
BEGUN_S, ENDED_S = 300.0, 900.0


def environment(stack: Stack, token: str | None) -> dict[str, str]:
    """Return the environment of a user of this machine, whose home has nothing of Ray's or MLflow's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_", "DISTSGD_"))}
    found = kept | {"HOME": str(stack.folder), "RAY_AUTH_MODE": "token"}
    return found if token is None else found | {"RAY_AUTH_TOKEN_PATH": str(stack.folder / token)}


def values(epochs: int) -> list[str]:
    """Return the options of a run; checkpoints are frequent, so that a run that is broken off has one."""
    return ["--set", f"train.epochs={epochs}", "--set", "checkpoint.every_s=2"]


def serial_bits(stack: Stack, epochs: int) -> str:
    """Return `weights_sha256` of the serial loop, in the image: with the nodes' NumPy, on the same processor."""
    command = ["distsgd", "train", CONFIG, *values(epochs), "--workers", "0", "--run-dir", "/tmp/serial"]
    stack.execute("head", *command, "--set", "tracking.enabled=false", "--quiet", seconds=600)
    content = json.loads(stack.execute("head", "cat", "/tmp/serial/result.json"))
    stack.execute("head", "rm", "-r", "/tmp/serial")
    return str(content["weights_sha256"])


class Submission:
    """`distsgd submit` on this machine, against the published port, and all that it prints."""

    def __init__(self, stack: Stack, run_dir: str, epochs: int, *options: str, token: str | None) -> None:
        command = [sys.executable, "-m", "distsgd.cli", "submit", CONFIG, "--address", DASHBOARD, "--run-dir", run_dir]
        self._process = subprocess.Popen(
            [*command, *values(epochs), *options],
            cwd=stack.folder,
            env=environment(stack, token),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.text = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.text += line

    def epoch(self) -> int:
        """Return the last epoch that the log names, 0 if there is none; CheckError if the command has ended."""
        check(self._process.poll() is None, f"`distsgd submit` ended with {self._process.returncode}: {self.tail()}")
        found = re.findall(r"epoch (\d+)/", self.text)
        return int(found[-1]) if found else 0

    def until_epoch(self, number: int) -> None:
        """Return as soon as the log names the epoch."""
        until(lambda: self.epoch() >= number, BEGUN_S, f"epoch {number} of the run; its log: {self.tail()}")

    def ended(self) -> int:
        """Return the exit code, once the command has ended."""
        until(lambda: self._process.poll() is not None, ENDED_S, "the end of `distsgd submit`")
        self._reader.join(10)
        return int(self._process.returncode)

    def tail(self) -> str:
        """Return the end of what was printed."""
        return self.text[-3000:]

    def kill(self) -> None:
        """End the command, if it has not ended."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@contextlib.contextmanager
def submitted(stack: Stack, run_dir: str, epochs: int, *options: str, token: str | None) -> Iterator[Submission]:
    """Yield a submission; the command does not outlive the block."""
    submission = Submission(stack, run_dir, epochs, *options, token=token)
    try:
        yield submission
    finally:
        submission.kill()


class Mlflow:
    """MLflow's server at its published port, asked as a browser or another program would."""

    def __init__(self, stack: Stack) -> None:
        self.address = "https://localhost:5000" if stack.secure else "http://127.0.0.1:5000"
        self._context, self._headers = None, dict[str, str]()
        if stack.secure:
            self._context = ssl.create_default_context(cafile=str(stack.folder / "secrets/mlflow_certificate"))
            self._headers = login("admin", (stack.folder / "secrets/mlflow_password").read_text())

    def status(self, path: str, headers: dict[str, str] | None = None) -> int:
        """Return the HTTP status of a page."""
        try:
            with self._open(path, self._headers if headers is None else headers) as reply:
                return int(reply.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    def get(self, path: str) -> Any:
        """Return the answer of MLflow's REST interface."""
        with self._open(f"/api/2.0/mlflow/{path}", self._headers) as reply:
            return json.load(reply)

    def _open(self, path: str, headers: dict[str, str]) -> Any:
        request = urllib.request.Request(f"{self.address}{path}", headers=headers)
        handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
        if self._context is not None:
            handlers.append(urllib.request.HTTPSHandler(context=self._context))
        return urllib.request.build_opener(*handlers).open(request, timeout=60)


def login(user: str, password: str) -> dict[str, str]:
    """Return the header that logs in."""
    return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}


def sql(stack: Stack, query: str) -> list[str]:
    """Return the rows that PostgreSQL answers, asked in its container."""
    psql = f'PGPASSWORD="$(cat /run/secrets/postgres_password)" psql -h 127.0.0.1 -U mlflow -d mlflow -At -c "{query}"'
    return stack.execute("postgres", "sh", "-c", psql).split()


def check_run(stack: Stack, run_dir: str, bits: str, log: str) -> None:
    """Check that a run has finished with the bits, and that MLflow and PostgreSQL have all of it."""
    result = json.loads(stack.execute("head", "cat", f"{run_dir}/result.json"))
    check(result["status"] == "FINISHED", f"the run is {result['status']}")
    check(result["weights_sha256"] == bits, f"weights_sha256 is {result['weights_sha256']}, and {bits} serially")
    journal = [json.loads(line) for line in stack.execute("head", "cat", f"{run_dir}/metrics.jsonl").splitlines()]
    expected = sorted({record["step"] for record in journal if "train/loss" in record})
    run_id, mlflow = result["mlflow_run_id"], Mlflow(stack)
    found = mlflow.get(f"runs/get?run_id={run_id}")["run"]
    check(found["info"]["status"] == "FINISHED", f"in MLflow the run is {found['info']['status']}")
    tags = {tag["key"]: tag["value"] for tag in found["data"]["tags"]}
    check(bits in tags.values(), f"no tag in MLflow is the weights' digest: {tags}")
    history = mlflow.get(f"metrics/get-history?run_id={run_id}&metric_key=train/loss&max_results=25000")["metrics"]
    check(sorted(int(point["step"]) for point in history) == expected, "MLflow's points are not the journal's")
    check(mlflow.get(f"artifacts/list?run_id={run_id}").get("files"), "MLflow has no artifacts of the run")
    where = f"run_uuid = '{run_id}'"
    check(sql(stack, f"SELECT status FROM runs WHERE {where}") == ["FINISHED"], "in PostgreSQL the run is another")
    steps = sql(stack, f"SELECT step FROM metrics WHERE {where} AND key = 'train/loss' ORDER BY step")
    check([int(step) for step in steps] == expected, "PostgreSQL's points are not the journal's")
    link = re.search(r"^view +(\S+)", re.sub(r"(?m)^[-\d]+ [:\d]+ (?=view)", "", log), re.MULTILINE)
    check(link is not None, f"no link is printed: {log[-1500:]}")
    assert link is not None
    page = f"{mlflow.address}/#/experiments/{found['info']['experiment_id']}/runs/{run_id}?"
    check(link[1].startswith(page), f"the link printed is {link[1]}, and the page is {page}")
    check(mlflow.status("/") == 200, "MLflow's page does not open")


def wrong_token_is_refused_inside(stack: Stack) -> None:
    """Check that a container of the network needs the token to join Ray."""
    join = "import ray; ray.init('head:6379', log_to_driver=False); print(len(ray.nodes()))"
    name = stack.containers("worker")[0]
    joined = run(["podman", "exec", name, "python", "-c", join])
    check(joined.returncode == 0, f"a node cannot join Ray: {joined.stderr[-500:]}")
    refused = run(["podman", "exec", "--env", f"RAY_AUTH_TOKEN={'0' * 64}", name, "python", "-c", join])
    check(refused.returncode != 0, "a process with a wrong token joins Ray")


def write_wrong_token(folder: Path) -> str:
    """Write a token that is not the cluster's, and return the file's name."""
    (folder / "wrong_token").write_text("0" * 64)
    return "wrong_token"
