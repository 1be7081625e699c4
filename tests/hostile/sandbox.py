"""A folder in which the command is tried in this process, and what is wrong with how that went."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import signal
import stat
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Literal

import numpy as np
import pytest
from click.testing import CliRunner
from data_helpers import is_readable
from runs import without_notes

from distsgd.cli import main

Kind = Literal["traceback", "hang", "leftover", "secret", "wrong"]

EXIT_CODES = (0, 1, 2, 129, 130, 143)

LIMIT_S = 60.0
"""Seconds that one command may take."""

NOTES = ("warning: ", "features (", "resuming ", "training ", "epoch ", "the run in ", "MLflow had not ")
"""How lines on standard error begin that are not the message of a refusal."""

ROWS = "rows.npz"
"""The rows in the sandbox's folder: 240 of 3 features, in two classes."""


class HangError(BaseException):
    """The time is up; no `except Exception` keeps it from coming through."""


@dataclass(frozen=True)
class Problem:
    """What was wrong."""

    kind: Kind
    text: str


@dataclass(frozen=True)
class Ending:
    """How a command ended. `code` is None if it ended otherwise than by exiting."""

    code: int | None
    out: str
    err: str
    stray: str
    """What was written to the descriptors of standard output and error past Python's."""
    problems: list[Problem] = field(default_factory=list)

    @property
    def streams(self) -> str:
        """All that was printed."""
        return f"{self.out}\n{self.err}\n{self.stray}"


class Sandbox:
    """A folder `work` to be in, a home and a folder of temporary files, beneath one root."""

    def __init__(self, root: Path, *, limit_s: float = LIMIT_S) -> None:
        self.root, self.limit_s = root, limit_s
        self.work, self.home, self.tmp = root / "work", root / "home", root / "tmp"
        self.clean()

    def clean(self) -> None:
        """Empty the folders, and put the rows into `work`."""
        for folder in (self.work, self.home, self.tmp):
            if folder.exists():
                remove(folder)
            folder.mkdir(parents=True)
        rng = np.random.default_rng(0)
        np.savez(self.work / ROWS, X=rng.normal(size=(240, 3)).astype(np.float32), y=np.arange(240) % 2)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Be in `work`, with no Ray and no MLflow of the caller's about."""
        with pytest.MonkeyPatch.context() as patch:
            for name in [name for name in os.environ if name.startswith(("RAY_", "MLFLOW_", "DISTSGD_"))]:
                patch.delenv(name)
            patch.setenv("HOME", str(self.home))
            patch.setenv("TMPDIR", str(self.tmp))
            patch.setattr(tempfile, "tempdir", str(self.tmp))
            patch.chdir(self.work)
            yield

    def files(self) -> set[Path]:
        """Return all paths in the three folders."""
        found: set[Path] = set()
        for top in (self.work, self.home, self.tmp):
            for place, folders, names in os.walk(top):
                found.update(Path(place, name) for name in (*folders, *names))
        return found

    def invoke(
        self, *arguments: str, environment: Mapping[str, str] | None = None, threads_may_stay: bool = False
    ) -> Ending:
        """Run `distsgd ARGUMENTS` and find what is wrong with its end, but for files, which `check` judges."""
        before = _belongings()
        problems: list[Problem] = []
        code, out, err = None, "", ""
        os.chdir(self.work)
        with _captured(self.root / "streams") as stray, _limited(self.limit_s):
            try:
                found = CliRunner().invoke(main, arguments, env=environment)
            except HangError as error:
                problems.append(Problem("hang", _last_frames(error)))
            else:
                code, out, err = found.exit_code, found.stdout, found.stderr
                if found.exception is not None and not isinstance(found.exception, SystemExit):
                    problems.append(Problem("traceback", _last_frames(found.exception)))
                    code = None
        text = (self.root / "streams").read_text(errors="replace") if stray else ""
        ending = Ending(code, out, err, text, problems)
        if "Traceback (most recent call last)" in ending.streams:
            problems.append(Problem("traceback", ending.streams[-2000:]))
        if not problems:
            problems.extend(_judge_ending(ending))
            problems.extend(_left_over(before, threads_may_stay=threads_may_stay))
        return ending

    def call(self, function: Callable[[], None]) -> list[Problem]:
        """Call a function of the package and return what is wrong: anything that it raises, for one."""
        before = _belongings()
        with _limited(self.limit_s):
            try:
                function()
            except HangError as error:
                return [Problem("hang", _last_frames(error))]
            except AssertionError as error:
                return [Problem("wrong", str(error))]
            except Exception as error:  # all that is not distsgd's own
                return [Problem("traceback", _last_frames(error))]
        return _left_over(before, threads_may_stay=False)

    def left_behind(self, before: set[Path], *runs: str) -> list[Problem]:
        """Return the files that are new since `before` and lie neither in a run directory nor are one's parents."""
        new = self.files() - before
        homes = {path.parent for path in new if path.name in ("config.json", ".lock")} | {self.work / r for r in runs}
        inside = {path for path in new if any(home == path or home in path.parents for home in homes)}
        above = {path for path in new if any(path in home.parents for home in homes)}
        strangers = sorted(str(path.relative_to(self.root)) for path in new - inside - above)
        strangers += sorted(str(path.relative_to(self.root)) for path in inside if path.name.endswith(".tmp"))
        return [Problem("leftover", f"files: {', '.join(strangers)}")] if strangers else []

    def holding(self, *secrets: str, given: frozenset[str] = frozenset()) -> list[Problem]:
        """Return a problem for each file that holds one of the texts, but for those of the names in `given`."""
        problems = []
        for path in self.files():
            if path.name in given or not stat.S_ISREG(path.lstat().st_mode):
                continue
            content = path.read_bytes() + os.fsencode(path.name)
            found = [secret for secret in secrets if secret.encode() in content]
            if found:
                problems.append(Problem("secret", f"{found[0]!r} is in {path.relative_to(self.root)}"))
        return problems


def remove(folder: Path) -> None:
    """Remove a folder in which permissions may have been taken away."""

    def again(function: object, path: str, _: object) -> None:
        os.chmod(os.path.dirname(path), 0o700)
        if not os.path.islink(path):
            os.chmod(path, 0o700)
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path, onerror=again)
        else:
            os.unlink(path)

    shutil.rmtree(folder, onerror=again)


def _judge_ending(ending: Ending) -> list[Problem]:
    """Return what is wrong with the exit code and with the message that goes with it."""
    if ending.code not in EXIT_CODES:
        return [Problem("wrong", f"exit code {ending.code}: {ending.err[-1000:]}")]
    lines = [line for line in without_notes(ending.err).split("\n") if line and not line.startswith(NOTES)]
    if ending.code == 0:
        return []
    usage = lines and lines[0].startswith("Usage: ") and lines[-1].startswith("Error: ")
    message = "\n".join(lines)
    if not usage and not (message.startswith("distsgd: ") and is_readable(message.removeprefix("distsgd: "))):
        return [
            Problem("wrong", f"exit code {ending.code}, and neither a line nor a list for it: {ending.err[-1000:]!r}")
        ]
    return []


@dataclass(frozen=True)
class _Belongings:
    """What this process has."""

    descriptors: dict[int, str]
    threads: set[int]
    children: set[str]


def _belongings() -> _Belongings:
    descriptors = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the one by which the folder was listed
            descriptors[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    if "ray" in sys.modules:  # an earlier test's, whose threads open and close connections at any time
        descriptors = {number: target for number, target in descriptors.items() if not target.startswith("socket:")}
    threads = {thread.ident or 0 for thread in threading.enumerate()}
    children = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            children.update((task / "children").read_text().split())
    return _Belongings(descriptors, threads, children)


def _left_over(before: _Belongings, *, threads_may_stay: bool) -> list[Problem]:
    """Return what this process has more than before, after a moment in which it may have gone."""
    deadline = time.monotonic() + 3
    while True:
        now = _belongings()
        # What was opened after this process was last looked at may have the number of something else.
        new = [target for fd, target in now.descriptors.items() if before.descriptors.get(fd) != target]
        problems = []
        if new and not threads_may_stay:
            problems.append(Problem("leftover", f"descriptors: {', '.join(new)}"))
        if now.threads - before.threads and not threads_may_stay:
            names = [thread.name for thread in threading.enumerate() if thread.ident not in before.threads]
            problems.append(Problem("leftover", f"threads: {', '.join(names)}"))
        if now.children - before.children:
            problems.append(Problem("leftover", f"processes: {', '.join(now.children - before.children)}"))
        if not problems or time.monotonic() > deadline:
            return problems
        gc.collect()
        time.sleep(0.02)


@contextlib.contextmanager
def _captured(path: Path) -> Iterator[list[bool]]:
    """Send what is written to the descriptors of standard output and error to a file."""
    kept = [os.dup(1), os.dup(2)]
    wrote: list[bool] = []
    with open(path, "wb", buffering=0) as file:
        try:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            yield wrote
        finally:
            for number, descriptor in zip((1, 2), kept, strict=True):
                os.dup2(descriptor, number)
                os.close(descriptor)
            if os.fstat(file.fileno()).st_size:
                wrote.append(True)


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raise HangError in this thread, the main one, when the time is up."""

    def stop(_: int, __: FrameType | None) -> None:
        raise HangError(f"not over after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _last_frames(error: BaseException) -> str:
    return "".join(traceback.format_exception(error, limit=-6))[-3000:]
