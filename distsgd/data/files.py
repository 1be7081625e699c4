"""Which data files a path stands for: a file, a folder or a glob."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterator

from distsgd.data.formats import BY_SUFFIX, form_of_name
from distsgd.errors import DataError, nearest
from distsgd.system.secrets import redacted_text

RUN_FILES = {"config.json", "metrics.jsonl"}
"""Files by which a run directory is known, which may lie in the folder of the data."""


def find(location: str) -> list[str]:
    """Return the sorted paths of the data files that a file's, a folder's or a glob's name stands for.

    A folder stands for all files with a data suffix in it and below it, except hidden ones, those whose name (or whose
    folder's name) begins with `_`, and those in a run directory. Symbolic links to folders are not followed. DataError
    if there is no such file, or if one of them is not a regular file: a pipe could only be read once, and opening it
    may block.
    """
    path = os.path.expanduser(location)
    location = redacted_text(location)  # as it is shown: a URL may hold a password
    try:
        if os.path.isdir(path):
            found = sorted(_walk(path))
            if not found:
                raise DataError(f"folder {location!r} holds no data file; expected names in {', '.join(BY_SUFFIX)}")
            return found
        kind = os.stat(path).st_mode
    except FileNotFoundError:
        return _expand(location, path)
    except OSError as error:
        raise DataError(f"{location} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise DataError(f"{location!r} cannot be a path ({error})") from None
    _check_regular(location, kind)
    return [path]


def _check_regular(path: str, kind: int) -> None:
    """Raise DataError unless `kind`, the mode of what is at `path`, is a regular file's."""
    if not stat.S_ISREG(kind):
        what = "a folder" if stat.S_ISDIR(kind) else "a pipe, a socket or a device"
        raise DataError(f"{path} is {what}; expected a regular file: move it away, or name the files with a glob")


def _walk(folder: str) -> Iterator[str]:
    def refuse(error: OSError) -> None:
        raise error

    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if name[0] not in "._"]
        if set(names) >= RUN_FILES:  # its model.npz and checkpoints are no rows
            folders.clear()
            continue
        for name in names:
            if name[0] not in "._" and form_of_name(name) is not None:
                path = os.path.join(place, name)
                try:
                    _check_regular(path, os.stat(path).st_mode)
                except FileNotFoundError:
                    raise DataError(f"{path} is a symbolic link to a file that does not exist; remove it") from None
                yield path


def _expand(location: str, path: str) -> list[str]:
    """Return the files that a glob matches; DataError for none, and for a path that is no glob."""
    if "://" in path:
        raise DataError(f"{location} is not a local path; copy or mount the files where the program runs")
    if not glob.has_magic(path):
        folder = os.path.dirname(path) or "."
        known = [*os.listdir(folder), "digits"] if os.access(folder, os.R_OK) else []
        raise DataError(
            f"{location!r} does not exist{nearest(os.path.basename(path), known)}; expected a file, folder or glob"
        )
    found = sorted(p for p in glob.glob(path, recursive=True) if os.path.isfile(p))
    if not found:
        raise DataError(f"no file matches the glob {location!r}")
    return found
