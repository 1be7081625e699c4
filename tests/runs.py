"""Runs as a user makes them: the real command in a process of its own, and what it leaves behind."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from distsgd.cli import main
from distsgd.system.scratch import scratch_folder

MARK = "DISTSGD_TEST_MARK"
"""Environment variable by which the processes of one run are known; whatever a run starts inherits it."""

RAY_ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""What a process needs in order to join the tests' cluster."""

QUICK = {"model.hidden": 16, "train.max_steps": 30, "tracking.enabled": "false"}
"""A run on the digits that is over in a moment."""

GONE_S = 60.0
"""Seconds after which nothing of a run that ended may be alive."""

PATIENCE_S = 110.0
"""Seconds that a run is waited for: the machine may be busy with other things."""

TIMES = ("timestamp_ms", "time/step_ms", "time/samples_per_s")
"""What differs between the journals of two runs that are the same."""


@dataclass(frozen=True)
class Outcome:
    """How a process ended."""

    code: int
    out: str
    err: str
    """Standard error without the lines of stages, which depend on how busy the machine is."""


def without_notes(err: str | None) -> str:
    """Return what was printed to standard error without `starting Ray on this machine ...` and `features (4): ...`."""
    return re.sub(r"^(.* \.\.\.( \d+ s)?|features \(.*)\n", "", err or "", flags=re.MULTILINE)


def options(*layers: Mapping[str, Any], **dotted: Any) -> list[str]:
    """Return `--set KEY=VALUE` for each key of the layers, later ones winning; a keyword's `__` stands for a dot."""
    values: dict[str, Any] = {}
    for layer in (*layers, {key.replace("__", "."): value for key, value in dotted.items()}):
        values |= layer
    return [f"--set={key}={value}" for key, value in values.items()]


def slow_but_for(cases: Iterable[str], *quick: str) -> list[Any]:
    """Return a test's cases, all of them marked slow but for some."""
    return [case if case in quick else pytest.param(case, marks=pytest.mark.slow) for case in cases]


def invoke(*arguments: str) -> Outcome:
    """Run `distsgd ARGUMENTS` in this process, in the current folder; anything but an exit code is raised."""
    found = CliRunner().invoke(main, arguments, catch_exceptions=False)
    return Outcome(found.exit_code, found.stdout, without_notes(found.stderr))


@dataclass
class Cli:
    """Starts the command in a folder, with a home of its own and nothing of the caller's Ray or MLflow about it."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    prefix: Sequence[str] = ()
    """What is put before the program, such as what enters a network namespace."""

    def start(self, *arguments: str, **popen: Any) -> subprocess.Popen[str]:
        """Start `distsgd ARGUMENTS`."""
        return self.start_python("-m", "distsgd.cli", *arguments, **popen)

    def start_python(self, *arguments: str, **popen: Any) -> subprocess.Popen[str]:
        """Start `python ARGUMENTS`."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | popen
        return subprocess.Popen(
            [*self.prefix, sys.executable, *arguments],
            cwd=self.folder,
            env=kept | {"HOME": str(home), MARK: self.mark} | self.environment,
            text=True,
            **pipes,
        )

    def run(self, *arguments: str) -> Outcome:
        """Run `distsgd ARGUMENTS` to its end."""
        return finished(self.start(*arguments))

    def run_python(self, *arguments: str) -> Outcome:
        """Run `python ARGUMENTS` to its end."""
        return finished(self.start_python(*arguments))

    def processes(self) -> list[int]:
        """Return the processes that are alive of all that was started here."""
        marker, found = f"{MARK}={self.mark}".encode(), []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and marker in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
        return found

    def await_end(self, seconds: float = GONE_S) -> list[str]:
        """Wait until all that was started here has ended; return the commands of what is alive nevertheless."""
        eventually(lambda: not self.processes(), seconds)
        return [command(pid) for pid in self.processes()]

    def kill(self) -> None:
        """Kill whatever is alive."""
        while pids := self.processes():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)


def finished(process: subprocess.Popen[str], seconds: float = PATIENCE_S) -> Outcome:
    """Wait for a process and return how it ended; it is killed if it takes too long."""
    try:
        out, err = process.communicate(timeout=seconds)
    except BaseException:
        process.kill()
        process.communicate()
        raise
    return Outcome(process.returncode, out, without_notes(err))


def command(pid: int) -> str:
    """Return a process's command line, or an empty text if it is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


def eventually(condition: Callable[[], Any], seconds: float = PATIENCE_S) -> Any:
    """Return the first true value of `condition`, or its last value when the time is up."""
    deadline = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return value


def journal(run_dir: Path) -> list[dict[str, Any]]:
    """Return the whole lines of a run's journal; none while there is no journal."""
    with contextlib.suppress(FileNotFoundError):
        content = (run_dir / "metrics.jsonl").read_text()
        return [json.loads(line) for line in content[: content.rfind("\n") + 1].splitlines()]
    return []


def timeless(run_dir: Path) -> list[dict[str, Any]]:
    """Return a run's journal without what depends on the clock."""
    return [{key: value for key, value in record.items() if key not in TIMES} for record in journal(run_dir)]


def chains(run_dir: Path) -> list[tuple[int, str]]:
    """Return step and chained digest of each line of a run's proof."""
    lines = map(json.loads, (run_dir / "proof.jsonl").read_text().splitlines())
    return [(line["step"], line["chain"]) for line in lines]


def result(run_dir: Path) -> dict[str, Any]:
    """Return a run's `result.json`."""
    return dict(json.loads((run_dir / "result.json").read_text()))


@contextlib.contextmanager
def leaving_nothing(folder: Path) -> Iterator[Cli]:
    """Yield a command that works in `folder`; AssertionError if a process or a file elsewhere outlives its runs."""

    def elsewhere() -> set[Path]:
        return {*Path("/dev/shm").iterdir(), *Path("/tmp").glob("ray*")}

    before = elsewhere()
    # Ray's sockets need a folder with a short name.
    with tempfile.TemporaryDirectory(prefix="dl", dir="/tmp", ignore_cleanup_errors=True) as temporary:
        cli = Cli(folder, {"TMPDIR": temporary})
        try:
            yield cli
            assert not cli.await_end()
            assert eventually(lambda: not list(Path(temporary).iterdir()), GONE_S), list(Path(temporary).iterdir())
            assert eventually(lambda: not elsewhere() - before, GONE_S), elsewhere() - before
            left = {path for path in (folder / "home").rglob("*") if path.is_file()}
            assert not {path for path in left if path.parent.name != "matplotlib"}, left  # which caches its fonts there
        finally:
            cli.kill()


@dataclass(frozen=True)
class SmallCluster:
    """A Ray head without a dashboard."""

    address: str


@contextlib.contextmanager
def small_cluster(*, cpus: int) -> Iterator[SmallCluster]:
    """Yield a running head, which takes nobody without the tests' token; nothing of it is left afterwards."""
    script = (
        "import ray, sys\n"
        "node = ray.init(address='local', num_cpus=int(sys.argv[1]), object_store_memory=2**28, "
        "include_dashboard=False, _temp_dir=sys.argv[2])\n"
        "print(node.address_info['gcs_address'], flush=True)\n"
        "sys.stdin.read()\n"
        "ray.shutdown()\n"
    )
    with scratch_folder() as folder:  # which goes, with the head, even if the tests are killed
        cli = Cli(folder, RAY_ENVIRONMENT)
        arguments = ("-c", script, str(cpus), f"{folder}/r")
        head = cli.start_python(*arguments, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
        try:
            assert head.stdout is not None
            address = head.stdout.readline().strip()
            assert address, "the Ray head did not start"
            yield SmallCluster(address)
        finally:
            with contextlib.suppress(subprocess.TimeoutExpired):
                head.communicate(timeout=30)
            cli.await_end(20)
            cli.kill()
            head.wait()
