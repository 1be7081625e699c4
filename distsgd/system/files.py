"""Files that are written whole or not at all, whatever happens meanwhile."""

from __future__ import annotations

import os
from pathlib import Path


def temporary_name(path: Path) -> Path:
    """Return where the new content of `path` is until all of it is on disk; a crash may leave it behind."""
    return path.with_name(f".{path.name}.tmp")


def write_atomically(path: Path, content: bytes, *, private: bool = False) -> None:
    """Write a file so that at any moment the path holds either the old content or all of the new one, on disk.

    A `private` one can be read by its owner alone.
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
    """Return when the names in `folder` are on disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
