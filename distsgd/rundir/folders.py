"""The folder of a run: the one that is named, a new one, or the newest that can be resumed."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
from datetime import datetime
from pathlib import Path

from distsgd.config import Config
from distsgd.errors import RunDirectoryError
from distsgd.rundir.directory import CONFIG, LENGTH_KEYS, read
from distsgd.rundir.lock import LOCK
from distsgd.rundir.refusals import not_writable
from distsgd.system.files import temporary_name

SWEEP = "sweep.json"
"""The file of a sweep, in the directory in which its trials have theirs."""

RUNS = Path("runs")
"""Parent folder of run directories whose path is not given."""


def check_current_folder() -> None:
    """Raise RunDirectoryError if the current folder is gone, to which all relative paths refer."""
    try:
        os.getcwd()
    except OSError as error:
        raise RunDirectoryError(
            f"the current folder cannot be determined ({error.strerror}), perhaps because it was deleted; change to "
            "another one"
        ) from None


def named(config: Config) -> Path | None:
    """Return the run directory that the configuration names, or None; RunDirectoryError if its `~` is unknown."""
    if not config.run.dir:
        return None
    try:
        return Path(config.run.dir).expanduser()
    except RuntimeError:
        raise RunDirectoryError(
            f"run.dir is {config.run.dir!r}, and there is no such user; write ./~ for a folder of that name"
        ) from None


def default_name(config: Config, prefix: str = "") -> str:
    """Return `<prefix><data>-<date>-<time>`, the name of a run that starts now if none is given."""
    parts = [part for part in Path(config.data.train).parts if not set(part) & set("*?[")]
    stem = (Path(parts[-1]).stem if parts else "") or "run"
    return f"{prefix}{''.join(c if c.isalnum() or c in '-_.' else '-' for c in stem)}-{datetime.now():%Y%m%d-%H%M%S}"


def make_default(name: str) -> Path:
    """Create and return `runs/<name>` for a new run, with a number appended if that name is taken.

    RunDirectoryError if it cannot be created. Runs that start in the same second get different folders.
    """
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(path for path in (RUNS / name for name in names) if _is_made(path))


def _is_made(path: Path) -> bool:
    """Create a folder; return False if it already exists, RunDirectoryError if it cannot be created."""
    try:
        path.mkdir(parents=True)
    except FileExistsError as error:
        if path.parent.is_dir():
            return False
        raise not_writable(path, error) from None
    except OSError as error:
        raise not_writable(path, error) from None
    return True


def check_new(path: Path) -> None:
    """Raise RunDirectoryError unless a new run may start in `path`: it does not exist, or is an empty folder.

    Leftovers of a run that was killed while it created its directory are ignored.
    """
    try:
        entries = {entry.name for entry in path.iterdir()} - {LOCK, temporary_name(path / CONFIG).name}
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise RunDirectoryError(
            f"the run directory {str(path)!r} is a file, or lies below one; give another one (--run-dir, run.dir)"
        ) from None
    except (OSError, ValueError) as error:
        raise RunDirectoryError(
            f"the run directory {str(path)!r} cannot be listed: {getattr(error, 'strerror', error)}; "
            "give another one (--run-dir, run.dir)"
        ) from None
    if CONFIG in entries:
        raise RunDirectoryError(
            f"the run directory {str(path)!r} holds another run; add --resume (in Python: resume=True) to continue "
            "it, or give another one (--run-dir, run.dir)"
        )
    if entries:
        raise RunDirectoryError(
            f"the run directory {str(path)!r} is not empty and holds no run ({min(entries)!r} is in it); "
            "give another one (--run-dir, run.dir)"
        )


def writable_parent(path: Path) -> Path:
    """Return the folder that a run directory lies in, which is created if need be.

    RunDirectoryError if this process cannot write there.
    """
    parent = path.absolute().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise not_writable(path, error) from None
    if not os.access(parent, os.W_OK | os.X_OK):
        raise not_writable(path, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))
    return parent


def no_run(path: Path) -> RunDirectoryError:
    """Return the error for a directory that is not a run's, which names the runs in it, as in that of a sweep."""
    within = sorted(found.parent for found in path.glob(f"*/{CONFIG}"))
    name = "the run directory that `distsgd train` printed"
    if within:
        name = f"one of the {len(within)} that are in it, such as {str(within[0])!r}"
    return RunDirectoryError(f"no run is in {str(path)!r}: it has no {CONFIG}; name {name}")


def has_begun(config: Config, file: str = CONFIG) -> bool:
    """Return whether the directory that a configuration names has the file with which a run, or a sweep, begins."""
    path = named(config)
    return path is not None and (path / file).exists()


def find_resumable(config: Config) -> Path:
    """Return the newest directory below `runs/` with a run of this configuration; without one, of another length."""
    matching = list[tuple[bool, float, Path]]()
    try:
        paths = [entry / CONFIG for entry in RUNS.iterdir()] if RUNS.exists() else []
    except OSError as error:
        raise RunDirectoryError(
            f"{str(RUNS)!r} cannot be searched for a run to resume: {error.strerror}; name its directory "
            "(--run-dir, run.dir)"
        ) from None
    for path in paths:
        with contextlib.suppress(RunDirectoryError, OSError):
            _, stored, _ = read(path.parent)
            exact, values = stored.digest() == config.digest(), config.flat()
            as_long = stored.with_values({key: values[key] for key in LENGTH_KEYS})
            if as_long.digest() == config.digest() and stored.data == config.data:
                matching.append((exact, path.stat().st_mtime, path.parent))
    if not matching:
        raise RunDirectoryError(
            f"no run of this configuration is in {str(RUNS)!r}; name its directory (--run-dir, run.dir), "
            "or leave --resume out to start one"
        )
    return max(matching)[2]
