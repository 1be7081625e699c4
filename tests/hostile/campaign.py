"""Tries any number of cases, in children that are watched, so that neither a hang nor a crash ends the rest."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import importlib
import itertools
import json
import os
import resource
import select
import signal
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity
from hypothesis.strategies import SearchStrategy

from hostile.generator import Generator, small_run
from hostile.sandbox import LIMIT_S, Problem, Sandbox, remove

GENERATORS = ("tables", "config", "paths", "uris", "rundirs", "models", "journals", "bytes")

MODULES = {"config": "configurations", "bytes": "inputs"}
"""Where the module has another name than its generator."""

BATCH = 100
"""Cases that are drawn from one seed, and tried in one child."""

MEMORY_BYTES = 8 * 2**30
"""Address space of a child: what reads something endless fails, and the machine goes on."""

ROUNDS = 5
"""How often hypothesis is asked for the cases of a batch at most."""

COMMANDS = 3
"""Commands that the check of a case tries at most: a child that says nothing for so many limits is killed."""


def generator(name: str) -> Generator:
    """Return a generator by its name."""
    found: Generator = importlib.import_module(f"hostile.{MODULES.get(name, name)}").GENERATOR
    return found


def draw(strategy: SearchStrategy[Any], seed: int, count: int) -> list[Any]:
    """Return the cases that a seed stands for: `count`, with repetitions if there are not as many different ones."""
    found: list[Any] = []
    for again in range(ROUNDS):
        if len(found) < count:
            found += _draw(strategy, seed + again * 2**32, count)
    if not found:
        raise RuntimeError(f"{strategy} has generated nothing")
    return list(itertools.islice(itertools.cycle(found), count))


def _draw(strategy: SearchStrategy[Any], seed: int, count: int) -> list[Any]:
    """Return what hypothesis generates in one go: fewer than `count` if there are no more, or many were rejected."""
    found: list[Any] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        database=None,
        deadline=None,
        derandomize=False,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet,
    )
    @hypothesis.given(strategy)
    def collect(case: Any) -> None:
        found.append(case)

    collect()
    return found[:count]


@dataclass(frozen=True)
class Failure:
    """A case that failed, and how to try it again."""

    name: str
    seed: int
    number: int
    case: str
    problem: Problem

    def __str__(self) -> str:
        text = self.problem.text.strip().replace("\n", "\n    ")
        return (
            f"{self.name}: {self.problem.kind}: {text}\n    case: {self.case[:700]}\n"
            f"    again: python -m tests.hostile --only {self.name} --seed {self.seed} --case {self.number}"
        )


def try_batch(
    name: str, seed: int, *, count: int = BATCH, only: int | None = None, limit_s: float = LIMIT_S
) -> tuple[int, list[Failure]]:
    """Try the first `count` cases of a seed, or `only` one; return how many that were, and the failures."""
    chosen = generator(name)
    drawn = draw(chosen.cases(), seed, BATCH)
    numbers = list(range(len(drawn)))[:count] if only is None else [only]
    reported = 0
    failures: list[Failure] = []
    while numbers:
        for number, problems in _watched(chosen, drawn, numbers, limit_s):
            reported += 1
            failures += [Failure(name, seed, number, repr(drawn[number]), problem) for problem in problems]
            numbers = numbers[numbers.index(number) + 1 :]
    return reported, failures


def _watched(
    chosen: Generator, drawn: list[Any], numbers: list[int], limit_s: float
) -> Iterator[tuple[int, list[Problem]]]:
    """Yield what is wrong with each case, tried in a child; the last one may have hung, or ended the child."""
    silent_s = COMMANDS * limit_s + 30
    reader, writer = os.pipe()
    with tempfile.TemporaryDirectory(prefix="dh", dir="/tmp", ignore_cleanup_errors=True) as name:
        root = Path(name, "s")
        pid = os.fork()
        if not pid:
            os.close(reader)
            _child(chosen, drawn, numbers, writer, Sandbox(root, limit_s=limit_s))
        os.close(writer)
        current = numbers[0]
        try:
            with open(reader, "rb", buffering=0) as stream:
                for line in _lines(stream.fileno(), silent_s):
                    current, problems = line
                    if problems is not None:
                        yield current, [Problem(**problem) for problem in problems]
                        current = -1
        except TimeoutError:
            yield current, [Problem("hang", f"no answer for {silent_s:g} s\n{_trace(root)}")]
            current = -1
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            status = os.waitpid(pid, 0)[1]
        if current >= 0:
            yield current, [Problem("traceback", f"the process ended with {status}\n{_trace(root)}")]
        if root.exists():
            remove(root)


def _lines(descriptor: int, silent_s: float) -> Iterator[tuple[int, list[dict[str, Any]] | None]]:
    """Yield what a child says; TimeoutError if it says nothing for too long."""
    rest = b""
    while True:
        if not select.select([descriptor], [], [], silent_s)[0]:
            raise TimeoutError
        data = os.read(descriptor, 65536)
        if not data:
            return
        *whole, rest = (rest + data).split(b"\n")
        for line in whole:
            number, problems = json.loads(line)
            yield number, problems


def _child(chosen: Generator, drawn: list[Any], numbers: list[int], writer: int, sandbox: Sandbox) -> None:
    """Try cases and say how each went, then end this process."""
    status = 1
    try:
        _restrict()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        faulthandler.enable(open(sandbox.root / "trace", "w"))  # noqa: SIM115 - open until this process ends
        with sandbox.entered():
            warm_up(sandbox)
            for number in numbers:
                os.write(writer, json.dumps([number, None]).encode() + b"\n")
                sandbox.clean()
                found = [vars(problem) for problem in tried(chosen, drawn[number], sandbox)]
                os.write(writer, json.dumps([number, found]).encode() + b"\n")
                if any(problem["kind"] == "hang" for problem in found):
                    break  # what hung may hold locks
        status = 0
    except BaseException:
        with contextlib.suppress(Exception), open(sandbox.root / "trace", "a") as file:
            traceback.print_exc(file=file)
    finally:
        os._exit(status)


def warm_up(sandbox: Sandbox) -> None:
    """Run the command a few times, so that what a process opens once is not counted as left behind by a case."""
    (sandbox.work / "rows.csv").write_text("a,label\n" + "1,0\n2,1\n" * 20)
    away = {"tracking__enabled": "true", "tracking__uri": "http://127.0.0.1:9", "tracking__timeout_s": 5}
    limit_s, sandbox.limit_s = sandbox.limit_s, LIMIT_S  # mlflow is imported
    for arguments in (small_run(), small_run("csv", data__train="rows.csv"), small_run("away", **away)):
        ending = sandbox.invoke(*arguments, threads_may_stay=True)
        assert ending.code == 0, f"{ending.problems} {ending.streams}"
    sandbox.limit_s = limit_s


def tried(chosen: Generator, case: Any, sandbox: Sandbox) -> list[Problem]:
    """Return what is wrong with a case; what the check itself raises is wrong with it, too."""
    try:
        return chosen.check(case, sandbox)
    except Exception:
        return [Problem("wrong", f"the check failed:\n{traceback.format_exc()}")]


def _trace(root: Path) -> str:
    """Return what a child has left of how it ended."""
    with contextlib.suppress(OSError):
        return (root / "trace").read_text()[-3000:]
    return ""


def _restrict() -> None:
    """End with the parent, take no more memory than the machine can spare, and let permissions hold for root, too."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    version, dac_override, dac_read_search = 0x20080522, 1, 2
    header = (ctypes.c_uint32 * 2)(version, 0)
    sets = (ctypes.c_uint32 * 6)()
    if os.geteuid() == 0 and libc.capget(header, sets) == 0:
        for index in (0, 1):  # effective and permitted
            sets[index] &= ~(1 << dac_override | 1 << dac_read_search)
        libc.capset(header, sets)
