"""Carries a schedule out with the real command, and finds what differs from the undisturbed run."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nodes import Nodes, ray_nodes
from raylets import second_raylet
from runs import RAY_ENVIRONMENT, TIMES, Cli, chains, command, eventually, options, result, small_cluster, timeless

from chaos.schedule import Schedule, Shape
from distsgd.system.faults import VARIABLE

LIMIT_S = 240.0
"""Seconds for a whole schedule."""

GONE_S = 60.0
"""Seconds within which all processes of a run have to be gone."""

ACTORS = ("ServerActor", "WorkerActor", "AggregatorActor")

SETTINGS = {"checkpoint.every_s": 0.2, "run.timeout_s": 3, "run.max_restarts": 12, "tracking.timeout_s": 60}
"""A short timeout, so that stopped processes are soon marked as lost; enough restarts for all faults of a schedule."""

MNIST = Path(__file__).resolve().parents[3] / "shared" / "data" / "mnist" / "train.parquet"


@dataclass
class Report:
    """What became of a schedule."""

    schedule: Schedule
    struck: Counter[str]
    problems: list[str]
    drivers: int
    """Times that the command was started."""
    seconds: float
    output: str


@dataclass
class Harness:
    """The undisturbed runs and the cluster of two nodes, each made when it is first needed."""

    folder: Path
    stack: contextlib.ExitStack
    undisturbed: dict[Shape, Path] = field(default_factory=dict)
    _cluster: str | None = None

    def cluster(self) -> str:
        """Return the address of a cluster of two nodes with two CPUs each, so that two of four workers are behind an
        aggregator."""
        if self._cluster is None:
            head = self.stack.enter_context(small_cluster(cpus=2))
            self.stack.enter_context(second_raylet(head.address, cpus=2))
            self._cluster = head.address
        return self._cluster

    def reference(self, shape: Shape) -> Path:
        """Return the folder of the undisturbed run of the serial loop."""
        if shape not in self.undisturbed:
            folder = self.folder / f"undisturbed-{len(self.undisturbed)}"
            folder.mkdir()
            outcome = Cli(folder).run("train", *_arguments(shape, folder), "--workers=0")
            assert outcome.code == 0, outcome.err
            self.undisturbed[shape] = folder
        return self.undisturbed[shape]

    def carry_out(self, schedule: Schedule) -> Report:
        """Run a schedule to its end, whatever it takes, and compare."""
        began, reference = time.monotonic(), self.reference(schedule.shape)
        with contextlib.ExitStack() as stack:
            name = stack.enter_context(tempfile.TemporaryDirectory(prefix="dc", dir="/tmp", ignore_cleanup_errors=True))
            cluster = None
            if schedule.nodes:
                cluster = stack.enter_context(ray_nodes(schedule.nodes, RAY_ENVIRONMENT))
                address = cluster.address
            else:
                address = self.cluster() if schedule.two_nodes else None
            trial = Trial(Path(name), schedule, address, cluster)
            before = _shared_memory()
            shutil.copy(reference / "mlflow.db", trial.folder)
            try:
                problems = trial.run() or trial.differences(reference)
                problems += trial.leftovers(before)
            finally:
                trial.cli.kill()
            return Report(
                schedule, trial.struck(), problems, trial.drivers, time.monotonic() - began, "\n".join(trial.output)
            )


def _steps(path: Path) -> int:
    """Return the last step that the journal of a run has."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(json.loads((path / "metrics.jsonl").read_text().splitlines()[-1])["step"])
    return 0


def _arguments(shape: Shape, folder: Path) -> list[str]:
    given = {"tracking.uri": f"sqlite:///{folder}/mlflow.db", "train.epochs": shape.epochs}
    if shape.data == "mnist":
        given |= {"data.train": str(MNIST), "data.normalize": "unit"}
    return [f"--run-dir={folder}/run", *options(dict(shape.settings), SETTINGS, given)]


class Trial:
    """One run with faults, in a folder of its own."""

    def __init__(self, folder: Path, schedule: Schedule, address: str | None, cluster: Nodes | None) -> None:
        self.folder, self.schedule, self._cluster = folder, schedule, cluster
        self.strikes_left = sorted(schedule.strikes, key=lambda strike: strike.step)
        self._undo: list[tuple[float, Callable[[], None]]] = []
        self.drivers, self.output = 0, []
        for name in ("t", "faults"):
            (folder / name).mkdir()
        faults = folder / "faults" / "faults.json"
        faults.write_text(json.dumps([dataclasses.asdict(fault) for fault in schedule.faults]))
        environment = {"TMPDIR": str(folder / "t"), VARIABLE: str(faults)}
        prefix = cluster.inside() if cluster else ()
        self.cli = Cli(folder, environment | (RAY_ENVIRONMENT if address else {}), prefix=prefix)
        self._where = [f"--address={address}"] if address else []

    def run(self) -> list[str]:
        """Start the command, again and again where its driver is hit, until it has finished; return what went wrong."""
        deadline = time.monotonic() + LIMIT_S
        arguments = ["train", *_arguments(self.schedule.shape, self.folder), f"--workers={self.schedule.workers}"]
        arguments += [f"--set=run.link={self.schedule.link}", *self._where]
        hits = sum(fault.role == "driver" for fault in self.schedule.faults)
        for _ in range(hits + 1):
            resume = ["--resume"] if (self.folder / "run" / "config.json").exists() else []
            code = self._drive([*arguments, *resume], deadline)
            if code == 0:
                return self._sync()
            if code not in (-signal.SIGKILL, 128 + signal.SIGTERM, -signal.SIGTERM):  # a second one ends it at once
                return [f"the command exited with {code}"]
        return [f"the command did not finish after {hits} resumptions"]

    def _sync(self) -> list[str]:
        """Do what the last driver said is to be done if a signal ended its waiting for MLflow."""
        if "`distsgd sync" not in self.output[-1]:
            return []
        outcome = self.cli.run("sync", "run")
        return [] if outcome.code == 0 else [f"distsgd sync exited with {outcome.code}: {outcome.err}"]

    def _drive(self, arguments: list[str], deadline: float) -> int:
        """Run the command to its end and return its exit code; a stopped driver is killed."""
        self.drivers += 1
        log = self.folder / f"log-{self.drivers}"
        with open(log, "w") as file:
            process = self.cli.start(*arguments, stdout=file, stderr=subprocess.STDOUT)
        while process.poll() is None:
            if _is_stopped(process.pid) or time.monotonic() > deadline:
                process.kill()
            if self._cluster is not None:
                self._strike(self._cluster)
            time.sleep(0.05)
        self.output += [f"--- driver {self.drivers} ended with {process.returncode}", log.read_text()]
        if time.monotonic() > deadline:
            return 1
        return process.returncode

    def _strike(self, cluster: Nodes) -> None:
        """Do what the schedule says is due, and undo what has lasted long enough."""
        now = time.monotonic()
        for entry in [entry for entry in self._undo if entry[0] < now]:
            self._undo.remove(entry)
            entry[1]()
        if self.strikes_left and _steps(self.folder / "run") >= self.strikes_left[0].step:
            strike, network, node = self.strikes_left.pop(0), cluster.network, None
            node, pair = cluster.nodes[strike.node], (strike.node, strike.other)
            do, undo = {
                "cut": (lambda: network.cut(*pair), lambda: network.heal(*pair)),
                "unplug": (lambda: network.unplug(strike.node), lambda: network.plug(strike.node)),
                "stall": (lambda: node.stall("ray::"), lambda: node.wake("ray::")),
                "kill": (node.kill, lambda: None),
            }[strike.kind]
            do()
            self._undo.append((now + strike.lasting_s, undo))

    def struck(self) -> Counter[str]:
        """Return how many faults struck, by role."""
        struck = {int(path.stem) for path in (self.folder / "faults").glob("*.struck")}
        found = Counter(fault.role for number, fault in enumerate(self.schedule.faults) if number in struck)
        found["network"] = len(self.schedule.strikes) - len(self.strikes_left)
        return found

    def differences(self, reference: Path) -> list[str]:
        """Return in what the result, the journal and the MLflow history are not those of the undisturbed run."""
        found, expected = result(self.folder / "run"), result(reference / "run")
        keys = ("status", "weights_sha256", "steps", "epochs", "train/loss", "val/loss", "val/accuracy")
        problems = [f"{key} is {found[key]!r}, not {expected[key]!r}" for key in keys if found[key] != expected[key]]
        journal, journal_expected = timeless(self.folder / "run"), timeless(reference / "run")
        if journal != journal_expected:
            problems.append(f"the journal differs: {_first_difference(journal, journal_expected)}")
        if chains(self.folder / "run") != chains(reference / "run"):
            problems.append("the chain of the proof differs")
        with contextlib.closing(sqlite3.connect(self.folder / "mlflow.db")) as store:
            runs = store.execute("select run_uuid, status from runs").fetchall()
            history = {run: _history(store, run) for run, _ in runs}
        mine = dict(runs).get(found["mlflow_run_id"])
        if len(runs) != 2 or mine != "FINISHED":
            problems.append(f"MLflow has {len(runs) - 1} runs, and status {mine}")
        else:
            points, points_expected = history[found["mlflow_run_id"]], history[expected["mlflow_run_id"]]
            if points != points_expected:
                problems.append(f"the MLflow history differs: {_first_difference(points, points_expected)}")
        return problems

    def leftovers(self, before: set[Path]) -> list[str]:
        """Return what processes and files are left a while after the end."""
        for _, undo in self._undo:  # nobody can end what is on a node that is not reached
            undo()
        problems = [f"still alive: {text}" for text in self.cli.await_end(GONE_S)]
        eventually(lambda: not self._actors(), GONE_S)  # those on a cluster are no children of the command
        problems += [f"still alive: {text}" for text in self._actors()]
        if any((self.folder / "t").iterdir()):
            problems.append(f"left in the folder of temporary files: {sorted((self.folder / 't').iterdir())}")
        eventually(lambda: not _shared_memory() - before, 30)
        return problems + [f"left: {path}" for path in sorted(_shared_memory() - before)]

    def _actors(self) -> list[str]:
        """Return the actors of this run that are alive; the variable that arms faults gives them away."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):  # it is gone meanwhile
                if entry.name.isdigit() and str(self.folder).encode() in (entry / "environ").read_bytes():
                    found.append(command(int(entry.name)))
        return [name for name in found if any(f"ray::{actor}" in name for actor in ACTORS)]


def _history(store: sqlite3.Connection, run: str) -> list[tuple[Any, ...]]:
    """Return every point of a run in MLflow, but not what the clock says."""
    rows = store.execute(
        "select key, step, value from metrics where run_uuid = ? order by key, step, timestamp", (run,)
    )
    return [(key, step, None if key in TIMES else value) for key, step, value in rows]


def _first_difference(found: list[Any], expected: list[Any]) -> str:
    number = next((n for n, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), None)
    if number is None:
        return f"{len(found)} entries, not {len(expected)}"
    return f"{found[number]}, not {expected[number]}"


def _shared_memory() -> set[Path]:
    """Return what is in /dev/shm but for other programs' temporary folders."""
    return {path for path in Path("/dev/shm").iterdir() if not path.name.startswith("tmp")}


def _is_stopped(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    return False


@contextlib.contextmanager
def harness() -> Iterator[Harness]:
    """Yield a harness; what it starts is ended."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dc", dir="/tmp")))
        yield Harness(folder, stack)
