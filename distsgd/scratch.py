"""A folder of this process's own for what Ray leaves on disk, gone when the process ends, one way or another."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

PREFIX = "distsgd-"

LONGEST = 40
"""Characters that the parent folder may have: Ray appends its sockets' names, and a socket's path holds 107."""


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield a new, empty folder and remove it afterwards, and those of processes that were killed before they could."""
    parent = Path(tempfile.gettempdir())
    if len(str(parent)) > LONGEST:
        parent = Path("/tmp")
    _remove_stale(parent)
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_stale(parent: Path) -> None:
    for folder in parent.glob(f"{PREFIX}*-*"):
        pid = folder.name.removeprefix(PREFIX).split("-")[0]
        with contextlib.suppress(OSError):
            if pid.isdecimal() and folder.stat().st_uid == os.getuid() and not Path(f"/proc/{pid}").exists():
                shutil.rmtree(folder, ignore_errors=True)
