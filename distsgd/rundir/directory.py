"""The run directory: its stored configuration, and the paths of its files."""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distsgd.config import Config
from distsgd.errors import ConfigError
from distsgd.rundir import seal
from distsgd.rundir.refusals import not_writable, refusing
from distsgd.system.files import read_file, temporary_name, write_atomically
from distsgd.version import __version__

CONFIG = "config.json"
"""File with the run's configuration and key; a folder that contains it is a run directory."""

LENGTH_KEYS = ("train.epochs", "train.max_steps")
"""The keys that a run may be resumed with larger values of."""

PER_CLASS, CONFUSION_MATRIX = "per_class.csv", "confusion_matrix.csv"
"""Files with tables on the predictions for the held-out rows."""

OWN_FILES = (CONFIG, "metrics.jsonl", "model.npz", "result.json", "proof.jsonl", PER_CLASS, CONFUSION_MATRIX)
"""Files of a run that no other command may replace."""

BEST = "best"
"""Folder with a checkpoint of the best weights, if the run stops early."""


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
        write_atomically(self.path / name, json_text(content).encode(), private=True)


def check_not_own_file(path: Path) -> None:
    """Raise ConfigError if a command whose `--out` is the file `path` would replace one that a run has written."""
    real = path.resolve()
    if real.name in OWN_FILES and (real.parent / CONFIG).is_file():
        raise ConfigError(
            f"--out would replace {str(path)!r}, a file of the run in that folder; give another name or folder"
        )


def json_text(content: Mapping[str, Any]) -> str:
    """Return the text of a JSON file of a run."""
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


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
        raise not_writable(directory.path, error) from None
    _write_config(directory, resolved=resolved, requested=requested, data_digest=data_digest)


def _write_config(directory: RunDirectory, *, resolved: Config, requested: Config, data_digest: str) -> None:
    path = directory.path
    about = identity(directory, data_digest) | {"version": __version__, "requested": requested.without_secrets().flat()}
    content = resolved.without_secrets().with_values({"run.dir": str(path)}).model_dump(mode="json")
    about[seal.KEY] = seal.digest(content | {"distsgd": about})
    try:
        directory.write_json(CONFIG, content | {"distsgd": about})
    except OSError as error:
        raise not_writable(path, error) from None


def read(path: Path) -> tuple[RunDirectory, Config, str]:
    """Return an existing run's directory, its configuration as requested, and the digest of its data."""
    with refusing(path, CONFIG, "run"):
        content = json.loads(read_file(path / CONFIG))
        stored = content["distsgd"]
        directory = RunDirectory(path, str(stored["run_key"]))
        return directory, Config.build(stored["requested"]), str(stored["data_digest"])
