"""Runs from their directories."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from distsgd.compare.runs import METRICS, Curve, Run
from distsgd.config import Config
from distsgd.errors import ConfigError, RunDirectoryError
from distsgd.rundir import directory as rundir
from distsgd.rundir import lock
from distsgd.rundir.folders import SWEEP
from distsgd.rundir.journal import Reader
from distsgd.rundir.result import Result
from distsgd.system.files import read_file
from distsgd.tracking import description

DEPTH = 4
"""Folders within folders that are searched for run directories."""


def run_directories(folder: Path) -> list[Path]:
    """Return the run directories in a folder, sorted; the folder itself if it is one."""
    if (folder / rundir.CONFIG).is_file():
        return [folder]
    found = []
    for place, folders, files in os.walk(folder):
        if rundir.CONFIG in files:
            found.append(Path(place))
            folders.clear()
        elif len(Path(place).relative_to(folder).parts) >= DEPTH:
            folders.clear()
    return sorted(found)


def read_run(path: Path) -> Run:
    """Return the run in a directory; RunDirectoryError if it cannot be read."""
    directory, requested, data_digest = rundir.read(path)
    config, version = _resolved(path, requested)
    records = Reader(directory.journal).new()
    result = Result.read(path)
    points: dict[str, list[tuple[int, float, float]]] = {}
    for record in records:
        for key in METRICS:
            if key in record:
                points.setdefault(key, []).append((record["step"], float(record[key]), record.get("timestamp_ms", 0)))
    rows = None
    try:
        described = description.read(path)
        rows = next((dataset.rows for dataset in described.datasets if dataset.context == "training"), None)
    except RunDirectoryError:
        described = None
    return Run(
        name=path.name if described is None else described.name,
        source=str(path),
        key=directory.run_key,
        status=result.status if result is not None else ("RUNNING" if lock.in_use(path) else "FAILED"),
        parameters=config.parameters(),
        exact=True,
        data_digest=data_digest,
        version=version,
        weights_sha256=None if result is None else result.weights_sha256,
        numerics=result.numerics if result is not None else None,
        rows=rows,
        in_sweep=(path.absolute().parent / SWEEP).is_file(),
        curves={key: Curve.of(found) for key, found in points.items()},
    )


def _resolved(path: Path, requested: Config) -> tuple[Config, str | None]:
    """Return the configuration with what the run decided on, and the version of distsgd; else as requested."""
    content: dict[str, Any] = json.loads(read_file(path / rundir.CONFIG))
    about = content.pop("distsgd", {})
    try:
        return Config.build(content), about.get("version")
    except ConfigError:
        return requested, about.get("version")
