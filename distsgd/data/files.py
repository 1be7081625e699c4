"""Which files a path means, and what format each one has."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from distsgd.errors import DataError, nearest

Format = Literal["Parquet", "Arrow IPC", ".npz", "CSV"]

SUFFIXES: dict[str, Format] = {
    ".parquet": "Parquet",
    ".pq": "Parquet",
    ".arrow": "Arrow IPC",
    ".arrows": "Arrow IPC",
    ".feather": "Arrow IPC",
    ".ipc": "Arrow IPC",
    ".npz": ".npz",
    ".csv": "CSV",
}

MAGIC: dict[bytes, Format] = {
    b"PAR1": "Parquet",
    b"ARROW1": "Arrow IPC",
    b"\xff\xff\xff\xff": "Arrow IPC",  # a stream's first message
    b"PK\x03\x04": ".npz",
    b"PK\x05\x06": ".npz",  # a zip archive of nothing
}

REFUSED_MAGIC = {
    b"PARE": "is an encrypted Parquet file; decrypt it first",
    b"FEA1": "is a Feather file of version 1; write it again as version 2 or as Parquet",
    b"\x1f\x8b": "is compressed with gzip; decompress it first, or write it as Parquet",
    b"\x28\xb5\x2f\xfd": "is compressed with zstd; decompress it first, or write it as Parquet",
    b"\x93NUMPY": "is a single NumPy array; save the arrays X and y together with numpy.savez",
}


def find(said: str) -> list[str]:
    """Return the sorted paths of the data files that a file's, a folder's or a glob's name stands for.

    A folder stands for all files with a data suffix in it and below it, but for hidden ones and those whose name (or
    whose folder's name) begins with `_`. Symbolic links to folders are not followed. DataError if there is none.
    """
    path = os.path.expanduser(said)
    try:
        if os.path.isdir(path):
            found = sorted(_walk(path))
            if not found:
                raise DataError(f"folder {said!r} holds no data file; expected names in {', '.join(SUFFIXES)}")
            return found
        kind = os.stat(path).st_mode
    except FileNotFoundError:
        return _expand(said, path)
    except OSError as error:
        raise DataError(f"{said} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise DataError(f"{said!r} cannot be a path ({error})") from None
    if not stat.S_ISREG(kind):
        raise DataError(f"{said} is a pipe or a device; expected a file, which can be read more than once")
    return [path]


def _walk(folder: str) -> Iterator[str]:
    def refuse(error: OSError) -> None:
        raise error

    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if name[0] not in "._"]
        for name in names:
            if name[0] not in "._" and Path(name).suffix.lower() in SUFFIXES:
                yield os.path.join(place, name)


def _expand(said: str, path: str) -> list[str]:
    """Return the files that a glob matches; DataError for none, and for a path that is no glob."""
    if "://" in said:
        raise DataError(f"{said} is not a local path; copy or mount the files where the program runs")
    if not glob.has_magic(path):
        folder = os.path.dirname(path) or "."
        known = [*os.listdir(folder), "digits"] if os.access(folder, os.R_OK) else []
        raise DataError(
            f"{said!r} does not exist{nearest(os.path.basename(path), known)}; expected a file, folder or glob"
        )
    found = sorted(p for p in glob.glob(path, recursive=True) if os.path.isfile(p))
    if not found:
        raise DataError(f"no file matches the glob {said!r}")
    return found


def recognise(path: str) -> Format:
    """Return the format of a file by its first bytes; CSV, which has none of its own, by its suffix."""
    try:
        with open(path, "rb") as file:
            head = file.read(512)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    if not head:
        raise DataError(f"{path} is empty (0 bytes)")
    for magic, known in MAGIC.items():
        if head.startswith(magic):
            return known
    for magic, problem in REFUSED_MAGIC.items():
        if head.startswith(magic):
            raise DataError(f"{path} {problem}")
    expected = SUFFIXES.get(Path(path).suffix.lower())
    if expected == "CSV" and b"\0" not in head:
        return expected
    start = head[:12].decode("ascii", "replace")
    if expected:
        raise DataError(
            f"{path} is not {expected}, whatever its name says: it begins with {start!r}; write it in that format, or "
            "give it the name of its own"
        )
    raise DataError(f"{path} begins with {start!r}; expected a Parquet, Arrow IPC, .npz or (named .csv) CSV file")
