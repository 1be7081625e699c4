"""The lock of a run directory, which the driver that uses it holds."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from distsgd.errors import RunDirectoryError
from distsgd.rundir.refusals import not_writable

LOCK = ".lock"
"""File that the driver using a run directory holds a lock on."""


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lock the run directory; RunDirectoryError if another driver is using it.

    It is a kernel lock, released when the process that holds it exits, however it exits.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise not_writable(path, error) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunDirectoryError(
                f"another driver is using the run directory {str(path)!r}; wait for it to finish, or stop it"
            ) from None
        except OSError as error:
            raise RunDirectoryError(
                f"the file {str(path / LOCK)!r} cannot be locked: {error.strerror}; give a run directory on another "
                "file system (--run-dir, run.dir)"
            ) from None
        yield
    finally:
        os.close(descriptor)


def in_use(path: Path) -> bool:
    """Return whether a driver is using the run directory, without writing into it."""
    try:
        descriptor = os.open(path / LOCK, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:  # there is no lock, or not for this user
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return isinstance(error, BlockingIOError)
    finally:
        os.close(descriptor)
    return False
