"""A folder of this process's own for what Ray leaves on disk, gone when the process ends, one way or another."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

PREFIX = "distsgd-"


def own_prefix() -> str:
    """Return how the names of this process's folders begin, by which a later one knows those that are left over."""
    return f"{PREFIX}{os.getpid()}-"


LONGEST = 40
"""Characters that the parent folder may have: Ray appends its sockets' names, and a socket's path holds 107."""

END_S = 10.0
"""Seconds within which the process that watches over a folder ends once the folder is gone."""

SWEEP = """cat
while [ -e "$0" ]; do
    for process in /proc/[0-9]*; do
        ls -l "$process/fd" 2>/dev/null | grep -qF "$0/" && kill -9 "${process#/proc/}"
    done
    rm -rf -- "$0"
    sleep 1
done"""
"""Waits for the end of the process that holds its input. If the folder is there still, that process was killed: what
has a file open in the folder goes, then the folder. Ray's own agents would stay for 62 seconds, trying to report it."""


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield a new, empty folder that is removed afterwards, also if this process is killed before it could.

    In that case whatever process has a file open in it is killed as well. If a whole machine went down, the next call
    removes what is left.
    """
    parent = Path(tempfile.gettempdir())
    if len(str(parent)) > LONGEST:
        parent = Path("/tmp")
    _remove_stale(parent)
    folder = Path(tempfile.mkdtemp(prefix=own_prefix(), dir=parent))
    sweeper = subprocess.Popen(
        ["/bin/sh", "-c", SWEEP, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # out of reach of a terminal's Ctrl-C and of whoever kills this process's group
    )
    assert sweeper.stdin is not None
    _pipes.add(sweeper.stdin)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _pipes.remove(sweeper.stdin)
        sweeper.stdin.close()
        try:
            sweeper.wait(END_S)
        except subprocess.TimeoutExpired:  # another process holds the pipe
            os.killpg(sweeper.pid, signal.SIGKILL)
            sweeper.wait()


def _close_pipes() -> None:
    """Close, in a child process that was forked, the pipes whose ends tell of the parent's end."""
    for pipe in _pipes:
        pipe.close()
    _pipes.clear()


_pipes: set[IO[bytes]] = set()
os.register_at_fork(after_in_child=_close_pipes)


def _remove_stale(parent: Path) -> None:
    for folder in parent.glob(f"{PREFIX}*-*"):
        pid = folder.name.removeprefix(PREFIX).split("-")[0]
        with contextlib.suppress(OSError):
            if pid.isdecimal() and folder.stat().st_uid == os.getuid() and not Path(f"/proc/{pid}").exists():
                shutil.rmtree(folder, ignore_errors=True)
