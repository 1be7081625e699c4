"""`mlflow.json` in the run directory: the MLflow run of this run, once there is one."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from distsgd.system.files import read_file, write_atomically

FILE = "mlflow.json"


@dataclass(frozen=True)
class RunId:
    """The location of a run in MLflow."""

    run_id: str
    experiment_id: str
    uri: str
    """The store's, without secrets."""
    link_uri: str | None = None
    """The address at which people open the store's pages, if it is another one; version 0.1.0 wrote none."""

    @property
    def pages(self) -> str:
        """Where the store's pages are, if it is a server."""
        return self.link_uri or self.uri


def write(path: Path, found: RunId) -> None:
    """Write the file into the run directory."""
    write_atomically(path / FILE, (json.dumps(dataclasses.asdict(found), indent=2) + "\n").encode(), private=True)


def read(path: Path) -> RunId | None:
    """Return what the file in a run directory says; None if there is none yet, or it cannot be read.

    Without the file, the run is found in the store by its key.
    """
    try:
        return TypeAdapter(RunId).validate_json(read_file(path / FILE), strict=True)
    except (OSError, ValidationError):
        return None


def known(path: Path) -> str | None:
    """Return only the run ID, or None."""
    found = read(path)
    return None if found is None else found.run_id
