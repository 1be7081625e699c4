"""The run directory: its lock, its stored configuration, and the paths of its files."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from distsgd.config import Config
from distsgd.errors import ConfigError, RunDirectoryError
from distsgd.system.files import read_file, temporary_name, write_atomically
from distsgd.version import __version__

RUNS = Path("runs")
"""Parent folder of run directories whose path is not given."""

CONFIG = "config.json"
"""File with the run's configuration and key; a folder that contains it is a run directory."""

LENGTH_KEYS = ("train.epochs", "train.max_steps")
"""The keys that a run may be resumed with larger values of."""

PER_CLASS, CONFUSION_MATRIX = "per_class.csv", "confusion_matrix.csv"
"""Files with tables on the predictions for the held-out rows."""

BEST = "best"
"""Folder with a checkpoint of the best weights, if the run stops early."""

LOCK = ".lock"
"""File that the driver using a run directory holds a lock on."""


@dataclass(frozen=True)
class RunDirectory:
    """Paths of a run's files, and the key that identifies the run."""

    path: Path
    run_key: str

    @property
    def journal(self) -> Path:
        """The journal: a JSON line for each logged step."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """The trained model."""
        return self.path / "model.npz"

    @property
    def result(self) -> Path:
        """How the run ended."""
        return self.path / "result.json"

    @property
    def per_class(self) -> Path:
        """Rows, recall, precision and F1 of each class of the held-out rows, as CSV."""
        return self.path / PER_CLASS

    @property
    def confusion_matrix(self) -> Path:
        """The confusion matrix of the held-out rows, as CSV, a line for each true class."""
        return self.path / CONFUSION_MATRIX

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file into the directory, atomically, readable only by its owner."""
        text = json.dumps(content, indent=2, allow_nan=False) + "\n"
        write_atomically(self.path / name, text.encode(), private=True)


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


def make_default(config: Config) -> Path:
    """Create and return `runs/<data>-<date>-<time>` for a new run, with a number appended if that name is taken.

    RunDirectoryError if it cannot be created. Runs that start in the same second get different folders.
    """
    parts = [part for part in Path(config.data.train).parts if not set(part) & set("*?[")]
    stem = (Path(parts[-1]).stem if parts else "") or "run"
    name = f"{''.join(c if c.isalnum() or c in '-_.' else '-' for c in stem)}-{datetime.now():%Y%m%d-%H%M%S}"
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(path for path in (RUNS / name for name in names) if _is_made(path))


def _is_made(path: Path) -> bool:
    """Create a folder; return False if it already exists, RunDirectoryError if it cannot be created."""
    try:
        path.mkdir(parents=True)
    except FileExistsError as error:
        if path.parent.is_dir():
            return False
        raise _not_writable(path, error) from None
    except OSError as error:
        raise _not_writable(path, error) from None
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


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lock the run directory; RunDirectoryError if another driver is using it.

    It is a kernel lock, released when the process that holds it exits, however it exits.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise _not_writable(path, error) from None
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


def _not_writable(path: Path, error: OSError) -> RunDirectoryError:
    return RunDirectoryError(
        f"the run directory {str(path)!r} cannot be written: {error.strerror}; give another one (--run-dir, run.dir)"
    )


def remove_unfinished(path: Path) -> None:
    """Remove files that a killed driver was writing, as far as that is possible; the lock must be held."""
    with contextlib.suppress(OSError):
        for leftover in path.glob(temporary_name(path / "*").name):
            leftover.unlink()


def identity(directory: RunDirectory, data_digest: str) -> dict[str, str]:
    """Return what must match for this run to resume from a checkpoint."""
    return {"run_key": directory.run_key, "data_digest": data_digest}


def create(path: Path, *, resolved: Config, requested: Config, data_digest: str) -> RunDirectory:
    """Write `config.json` of a new run into `path`, without secrets, and return the directory.

    Raises RunDirectoryError if it cannot be written.
    """
    directory = RunDirectory(path, uuid.uuid4().hex)
    _write_config(directory, resolved=resolved, requested=requested, data_digest=data_digest)
    return directory


def lengthen(directory: RunDirectory, *, resolved: Config, requested: Config, data_digest: str) -> None:
    """Rewrite `config.json` of a run that is continued beyond its end; its result is removed first.

    Whatever interrupts this, the run can be resumed: with its old length until the file has the new one. `model.npz`
    stays that of the shorter run until the longer one has finished. RunDirectoryError if a file cannot be written.
    """
    try:
        directory.result.unlink(missing_ok=True)
    except OSError as error:
        raise _not_writable(directory.path, error) from None
    _write_config(directory, resolved=resolved, requested=requested, data_digest=data_digest)


def _write_config(directory: RunDirectory, *, resolved: Config, requested: Config, data_digest: str) -> None:
    path = directory.path
    about = identity(directory, data_digest) | {"version": __version__, "requested": requested.without_secrets().flat()}
    content = resolved.without_secrets().with_values({"run.dir": str(path)}).model_dump(mode="json")
    try:
        directory.write_json(CONFIG, content | {"distsgd": about})
    except OSError as error:
        raise _not_writable(path, error) from None


def read(path: Path) -> tuple[RunDirectory, Config, str]:
    """Return an existing run's directory, its configuration as requested, and the digest of its data."""
    try:
        content = json.loads(read_file(path / CONFIG))
        stored = content["distsgd"]
        directory = RunDirectory(path, str(stored["run_key"]))
        return directory, Config.build(stored["requested"]), str(stored["data_digest"])
    except FileNotFoundError:
        raise RunDirectoryError(
            f"there is no run to resume in {str(path)!r}: it has no config.json; leave --resume out to start one"
        ) from None
    except OSError as error:
        raise RunDirectoryError(f"{str(path / CONFIG)!r} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ConfigError) as error:
        raise RunDirectoryError(
            f"{str(path / CONFIG)!r} is damaged or of another version of distsgd: {error}"
        ) from None


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
