"""Output errors do not end a run: closed pipes, full disks, streams closed from the start."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from runs import QUICK, Cli, finished, options, result, slow_but_for

from distsgd.cli.streams import LenientStream

RUN = ["train", "--run-dir", "run", "--workers", "0", *options(QUICK)]


def run_in_shell(folder: Path, redirection: str, *arguments: str) -> int:
    """Run the command with its streams redirected as a shell does it; return its exit code."""
    command = f'exec "$@" {redirection}'
    words = ["sh", "-c", command, "sh", sys.executable, "-m", "distsgd.cli", *arguments]
    return subprocess.run(words, cwd=folder, timeout=100, check=False, stdout=subprocess.DEVNULL).returncode


@pytest.mark.parametrize(
    "redirection", slow_but_for(["2>&-", ">&- 2>&-", "<&- >&- 2>&-", ">/dev/full 2>/dev/full"], "<&- >&- 2>&-")
)
def test_streams_that_take_nothing(own_folder, redirection):
    assert run_in_shell(own_folder, redirection, *RUN) == 0
    assert result(Path("run"))["status"] == "FINISHED"
    assert run_in_shell(own_folder, redirection, *RUN) == 2  # refused: the directory holds a run


def test_a_pipe_whose_reader_has_gone(own_folder):
    """As of `distsgd train 2>&1 | head -1`."""
    reading, writing = os.pipe()
    process = Cli(own_folder).start(*RUN, stdout=writing, stderr=writing)
    os.close(writing)
    first = os.read(reading, 1)
    os.close(reading)
    assert first  # all that comes after it has no reader
    assert finished(process).code == 0
    assert result(Path("run"))["status"] == "FINISHED"


@pytest.mark.slow
def test_a_pipe_whose_reader_has_gone_with_workers(own_folder):
    reading, writing = os.pipe()
    process = Cli(own_folder).start("train", "--run-dir", "run", *options(QUICK), stdout=writing, stderr=writing)
    os.close(writing)
    os.close(reading)
    assert finished(process).code == 0
    assert result(Path("run"))["status"] == "FINISHED"


def test_a_terminal_that_is_closed(own_folder):
    """Its progress bar is drawn by a thread, which must not end the run either."""
    controller, terminal = pty.openpty()
    process = Cli(own_folder).start(*RUN, stdout=terminal, stderr=terminal, start_new_session=True)
    os.close(terminal)
    assert os.read(controller, 1)
    os.close(controller)
    assert finished(process).code == 0
    assert result(Path("run"))["status"] == "FINISHED"


def test_an_error_that_cannot_be_shown_keeps_its_exit_code(own_folder):
    diverging = options(QUICK, {"optim.lr": 1e30})
    assert run_in_shell(own_folder, "2>&-", "train", "--run-dir", "run", "--workers", "0", *diverging) == 1


def test_characters_that_the_encoding_lacks_are_escaped_and_the_rest_is_written():
    raw = io.BytesIO()
    stream = LenientStream(io.TextIOWrapper(raw, "latin-1"))
    for line in ("caf\xe9\n", "\u03bb\u2026\n", "\udcff\n", "end\n"):
        stream.write(line)
    stream.flush()
    assert raw.getvalue() == b"caf\xe9\n\\u03bb\\u2026\n\\udcff\nend\n"
