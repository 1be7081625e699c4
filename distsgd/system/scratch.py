"""Temporary folders of this process, which are removed when it ends, even if it is killed."""

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
the same in all containers that share the parent folder, unlike a process ID. The watcher process inherits it."""

INNER = "f"
"""Inner folder, which is what users get: even if its permissions are opened, no other user can enter the outer one."""

LONGEST = 107 - len("/distsgd-12345678/f") - len("/session_2026-01-01_00-00-00_123456_1234567/sockets/plasma_store")
"""Bytes that the parent folder's name may have: Ray appends the name of a socket, whose path holds 107."""

UNLOCKED_S = 24 * 60 * 60.0
"""Age in seconds after which a folder without a lock file is stale: its owner is not about to create that file."""

END_S = 10.0
"""Seconds within which the watcher process of a folder ends once the folder is gone."""

SWEEP = f"""cat
while [ -e "$0" ]; do
    for process in /proc/[0-9]*; do
        ls -l "$process/fd" 2>/dev/null | grep -qF "$0/{INNER}/" && kill -9 "${{process#/proc/}}"
    done
    rm -rf -- "$0"
    sleep 1
done"""
"""Waits for the end of the process that holds its input. If the folder still exists, that process was killed:
processes with open files in the inner folder are killed, then all is removed. Ray's agents would otherwise stay for 62
seconds. A process that looks for stale folders has the lock open for a moment, and is none of them."""


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield a new, empty folder that is removed afterwards, even if this process is killed.

    In that case processes with open files in it are killed as well. After a crash of the whole machine, the next call
    removes the leftovers. No other user can access its content, whatever its own permissions are.
    """
    owner = os.getpid()
    with _locked_folder() as (folder, lock):
        sweeper = subprocess.Popen(
            ["/bin/sh", "-c", SWEEP, str(folder.parent)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # Locked until it is removed: whoever removes it at the same time has open files in it, and would be killed.
            pass_fds=[lock.fileno()],
            start_new_session=True,  # not reached by a terminal's signals or a kill of this process's group
        )
        assert sweeper.stdin is not None
        _not_for_children.add(sweeper.stdin)
        try:
            yield folder
        finally:
            if os.getpid() == owner:  # not in a child process that was forked
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
    """Yield a new, empty folder that is removed afterwards; if this process is killed, the next call removes it."""
    with _locked_folder() as (folder, _):
        yield folder


@contextlib.contextmanager
def _locked_folder() -> Iterator[tuple[Path, IO[bytes]]]:
    """Yield a new, empty folder, and the file whose lock says that somebody owns it."""
    parent = Path(tempfile.gettempdir())
    if len(os.fsencode(parent)) > LONGEST:
        parent = Path("/tmp")
    _remove_stale(parent)
    folder, owner = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent)), os.getpid()
    try:
        with open(folder / f"{LOCK}.new", "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            os.rename(lock.name, folder / LOCK)  # so that the file is never visible without the lock
            _not_for_children.add(lock)
            try:
                (folder / INNER).mkdir()
                yield folder / INNER, lock
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
    """Close, in a forked child, the pipes and locks by which the end of the parent is noticed."""
    for file in _not_for_children:
        file.close()
    _not_for_children.clear()


_not_for_children: set[IO[bytes]] = set()
os.register_at_fork(after_in_child=_close_in_child)
