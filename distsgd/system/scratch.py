"""Folders of this process's own for temporary files, gone when the process ends, one way or another."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

PREFIX = "distsgd-"

LOCK = "lock"
"""File that the owner of a folder holds a lock on. The lock is the kernel's and ends with the process; it means
the same in all containers that share the folder's parent, as the number of a process does not."""

INNER = "f"
"""Folder within, which whoever is given it may open to all: nobody else can enter the one around it."""

LONGEST = 107 - len("/distsgd-12345678/f") - len("/session_2026-01-01_00-00-00_123456_1234567/sockets/plasma_store")
"""Bytes that the parent folder's name may have: Ray appends the name of a socket, whose path holds 107."""

UNLOCKED_S = 24 * 60 * 60.0
"""Age in seconds of a folder without a lock file at which nobody can be about to make that file."""

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
    removes what is left. No other user can reach what is in it, whatever its own permissions become.
    """
    with locked_folder() as folder:
        sweeper = subprocess.Popen(
            ["/bin/sh", "-c", SWEEP, str(folder.parent)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # out of reach of a terminal's signals and of whoever kills this process's group
        )
        assert sweeper.stdin is not None
        _not_for_children.add(sweeper.stdin)
        try:
            yield folder
        finally:
            shutil.rmtree(folder.parent, ignore_errors=True)
            _not_for_children.remove(sweeper.stdin)
            sweeper.stdin.close()
            try:
                sweeper.wait(END_S)
            except subprocess.TimeoutExpired:  # another process holds the pipe
                os.killpg(sweeper.pid, signal.SIGKILL)
                sweeper.wait()


@contextlib.contextmanager
def locked_folder() -> Iterator[Path]:
    """Yield a new, empty folder that is removed afterwards; if this process is killed, by another one's next call."""
    parent = Path(tempfile.gettempdir())
    if len(os.fsencode(parent)) > LONGEST:
        parent = Path("/tmp")
    _remove_stale(parent)
    folder, owner = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent)), os.getpid()
    try:
        with open(folder / f"{LOCK}.new", "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            os.rename(lock.name, folder / LOCK)  # so that nobody finds the file without the lock
            _not_for_children.add(lock)
            try:
                (folder / INNER).mkdir()
                yield folder / INNER
            finally:
                _not_for_children.discard(lock)
    finally:
        if os.getpid() == owner:  # not in a child process that was forked
            shutil.rmtree(folder, ignore_errors=True)


def _remove_stale(parent: Path) -> None:
    """Remove this user's folders whose owners are gone."""
    for folder in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if folder.stat().st_uid == os.getuid() and not _is_owned(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _is_owned(folder: Path) -> bool:
    try:
        with open(folder / LOCK, "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return False
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return time.time() - folder.stat().st_mtime < UNLOCKED_S


def _close_in_child() -> None:
    """Close, in a child process that was forked, what tells of the parent's end: pipes and locks."""
    for file in _not_for_children:
        file.close()
    _not_for_children.clear()


_not_for_children: set[IO[bytes]] = set()
os.register_at_fork(after_in_child=_close_in_child)
