"""Writes docs/output.md: what `distsgd train` prints in terminals of several widths, in a job's log, and into a pipe.

`python docs/output.py` runs the real thing each time, in pseudo-terminals of the given sizes.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
from pathlib import Path

PAGE = Path(__file__).resolve().parent / "output.md"
REPOSITORY = PAGE.parent.parent

TRAIN = ["train", "--workers", "0", "--set", "train.epochs=600", "--set", "tracking.enabled=false"]
"""A run of some seconds, long enough to be looked at."""

SHORT = ["train", "--workers", "0", "--set", "train.epochs=3", "--set", "tracking.enabled=false"]
JOB = {"RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps({"metadata": {"job_submission_id": "nightly"}})}


HEAD = """# What a run prints

Written by `python docs/output.py`, which runs `distsgd train` each time, without Ray and MLflow. Progress goes to
standard error, the summary to standard output. On a terminal, the first bar below is one from the middle of training,
and the second one stays. Fields that do not fit are left out.
"""


def command(arguments: list[str]) -> list[str]:
    """Return the command with these arguments."""
    return [sys.executable, "-m", "distsgd.cli", *arguments]


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a run."""
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    return kept | {"PYTHONPATH": str(REPOSITORY), "TERM": "xterm-256color", **more}


def on_terminal(columns: int, folder: str, **more: str) -> str:
    """Return what a terminal shows while the run goes on and after it, as text."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        command(TRAIN), cwd=folder, env=environment(**more), stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # of a terminal that nobody holds the other end of
            break
        if not chunk:
            break
        shown += chunk
    os.close(ours)
    process.wait()
    return screens(shown.decode())


def screens(shown: str) -> str:
    """Return the lines that stay, with one of the bars in between, from about the middle of the run."""
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).replace("\r\n", "\n").split("\n")
    drawn = [[part for part in line.split("\r") if part.strip()] for line in lines]
    bars = [part for parts in drawn for part in parts if "─" in part and "━" in part]
    kept = [parts[-1].rstrip() for parts in drawn if parts]
    at = next(number for number, line in enumerate(kept) if "━" in line)
    return "\n".join([*kept[:at], bars[len(bars) // 2].rstrip(), "[...]", *kept[at:]])


def piped(arguments: list[str], folder: str, tail: str = "", **more: str) -> str:
    """Return what comes out of `distsgd ... 2>&1`, or of a pipe that it goes into."""
    script = f'"$@" 2>&1{tail}'
    words = ["sh", "-c", script, "sh", *command(arguments)]
    found = subprocess.run(words, cwd=folder, env=environment(**more), capture_output=True, text=True, check=True)
    return found.stdout.rstrip("\n")


def page() -> str:
    """Return the page."""
    parts = [HEAD]
    with tempfile.TemporaryDirectory() as folder:
        widths = {columns: block(on_terminal(columns, folder)) for columns in (80, 40, 20)}
        parts += [f"## On a terminal of {columns} columns\n\n{shown}" for columns, shown in widths.items()]
        parts.append(f"## Without colour (`NO_COLOR=1`)\n\n{block(on_terminal(80, folder, NO_COLOR='1'))}")
        parts.append(f"## In the log of a Ray job\n\n{block(piped(SHORT, folder, **JOB))}")
        head = block(piped(SHORT, folder, " | head -2"))
        parts.append(f"## `distsgd train 2>&1 | head -2`\n\nThe run goes on to its end.\n\n{head}")
        quiet = block(piped([*SHORT, "--quiet"], folder))
        parts.append(
            f"## `distsgd train --quiet`\n\nNothing but warnings and errors, and here there were none.\n\n{quiet}"
        )
    return "\n".join(parts)


def block(text: str) -> str:
    """Return a text as a block of Markdown."""
    return f"```text\n{text}\n```\n" if text else "```text\n```\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
