"""Writing files atomically, and reading only regular files of a plausible size."""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Literal

MAX_BYTES = 2**26
"""The largest JSON file of a run that is read."""


def temporary_name(path: Path) -> Path:
    """Return the temporary file that holds new content of `path` until it is complete; a crash may leave it behind."""
    return path.with_name(f".{path.name}.tmp")


def write_atomically(path: Path, content: bytes, *, private: bool = False) -> None:
    """Write a file so that at any moment the path holds either the old content or all of the new one, on disk.

    With `private`, only its owner can read the file.
    """
    temporary = temporary_name(path)
    try:
        with open(temporary, "wb") as file:
            if private:
                os.fchmod(file.fileno(), 0o600)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Flush the directory entries of `folder` to disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_regular(path: Path, mode: Literal["rb", "a+b"] = "rb") -> BufferedReader | FileIO:
    """Open a file, with `rb` to read it, or with `a+b` to read and extend it, then without a buffer.

    OSError if it is not a regular file: opening a pipe may block, and reading from a device may never end.
    """
    flags = os.O_RDONLY if mode == "rb" else os.O_RDWR | os.O_CREAT | os.O_APPEND
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    kind = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(kind):
        os.close(descriptor)
        number = errno.EISDIR if stat.S_ISDIR(kind) else errno.EINVAL
        raise OSError(number, os.strerror(number) if stat.S_ISDIR(kind) else "not a regular file", str(path))
    return open(descriptor, mode) if mode == "rb" else open(descriptor, mode, buffering=0)


def read_file(path: Path, *, max_bytes: int = MAX_BYTES) -> bytes:
    """Return what is in a regular file; OSError if it cannot be read, or holds more than `max_bytes`."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise OSError(errno.EFBIG, f"{size:,} bytes, where {max_bytes:,} were expected at most", str(path))
        return file.read()
