"""Odd paths, for the rows, the configuration file and the run directory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from hostile import odd
from hostile.generator import Generator, small_run
from hostile.sandbox import Problem, Sandbox

THERE = (
    "rows.npz",
    "empty",
    "full",
    "locked",
    "pipe",
    "dangling",
    "loop",
    "link",
    "folder.npz",
    "pipes",
    "zero.csv",
    "rows.npz/",
    "rows.npz/below",
    "full/rows.npz/x",
    "link/new",
    "dangling/new",
    "pipe/new",
    "loop/new",
)
"""What `furnish` makes, and what would lie below it."""

ODD = (
    "",
    ".",
    "..",
    "/",
    "//",
    "./run",
    "run/",
    "run/../run",
    "../work/run",
    "~",
    "~/run",
    "~no-such-user/run",
    "-run",
    "--run",
    "*",
    "*.npz",
    "[",
    "[a-",
    "**",
    "{a,b}",
    "a?b",
    "runs",
    "CON",
    ".hidden",
    "_under",
    "run.npz",
    "digits",
    "/dev/null",
    "/dev/null/run",
    "/dev/full",
    "/dev/zero",
    "/proc/self/run",
    "/proc/self/environ",
    "/proc/self/mem",
    "/proc/self/fd/0",
    "/sys/run",
    "http://h/x",
    "s3://bucket/x",
    "file:///tmp/x",
    "dbfs:/x",
    "a" * 255,
    "a" * 256,
    "é" * 127,
    "é" * 128,
    "a/" * 100 + "run",
    "a/" * 2100,
    "run\n",
    "run\nTraceback",
    "run\x1b]0;x\x07",
    "\udcff",
    "run\udc80",
    " run",
    "run ",
    "run|x",
    "run;x",
    "run\\x",
    "run\u2028x",
    "🦆/🦆",
    "runs/..",
    "run/.lock",
    "run/checkpoints",
)


@dataclass(frozen=True)
class Case:
    """A path, and what it is given as."""

    use: str
    path: str


USES = ("run", "resume", "sync", "data", "val", "toml", "run and again")


def paths() -> SearchStrategy[str]:
    """Odd paths; those of `odd.texts` are below the current folder."""
    below = odd.texts().filter(lambda text: not text.lstrip().startswith(("/", "~")) and ".." not in text)
    joined = st.builds(lambda a, b: f"{a}/{b}", st.sampled_from(THERE), below.filter(bool))
    return st.one_of(st.sampled_from(ODD), st.sampled_from(THERE), below, joined)


def cases() -> SearchStrategy[Case]:
    """Paths for one use or another."""
    # All files of the machine would be data.
    return st.builds(Case, st.sampled_from(USES), paths()).filter(
        lambda case: case.path.strip("/") or "data val".find(case.use) < 0
    )


def furnish(work: Path) -> None:
    """Put things into a folder that a path may lead to."""
    for name in ("empty", "full", "locked", "folder.npz", "pipes"):
        (work / name).mkdir()
    (work / "full" / "notes.txt").write_text("mine")
    (work / "locked").chmod(0)
    os.mkfifo(work / "pipe")
    os.mkfifo(work / "pipes" / "pipe.parquet")
    (work / "zero.csv").write_bytes(b"")
    (work / "dangling").symlink_to("nowhere")
    (work / "loop").symlink_to("loop")
    (work / "link").symlink_to("empty")


def check(case: Case, sandbox: Sandbox) -> list[Problem]:
    """Use the path."""
    furnish(sandbox.work)
    before = sandbox.files()
    problems = []
    for arguments in _commands(case):
        ending = sandbox.invoke(*arguments)
        problems += ending.problems
        if ending.code == 2 and len(_commands(case)) == 1 and (new := sandbox.files() - before):
            problems.append(Problem("leftover", f"refused, and there are {sorted(map(str, new))}"))
    problems += sandbox.left_behind(before)
    if (sandbox.work / "full" / "notes.txt").read_text() != "mine":
        problems.append(Problem("wrong", "a file of the user's has changed"))
    return problems


def _commands(case: Case) -> list[list[str]]:
    """Return the commands, one after the other, that use the path."""
    run = [*small_run("run"), f"--run-dir={case.path}"]
    return {
        "run": [run],
        "run and again": [run, [*run, "--resume"]],
        "resume": [["train", "--resume", f"--run-dir={case.path}"]],
        "sync": [["sync", "--uri=http://127.0.0.1:9", "--", case.path]],
        "data": [[*small_run(), f"--data={case.path}"]],
        "val": [[*small_run(), f"--val={case.path}"]],
        "toml": [[*small_run(), "--", case.path]],
    }[case.use]


GENERATOR = Generator(cases, check, share=1.5)
