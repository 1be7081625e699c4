"""Writing files atomically."""

from __future__ import annotations

import os
from pathlib import Path


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
