"""What the arguments of `distsgd compare` name: run directories, folders of them, runs in MLflow, an experiment."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from distsgd.compare.folders import read_run, run_directories
from distsgd.compare.runs import METRICS, Run
from distsgd.compare.stored import runs_of
from distsgd.config import TrackingConfig
from distsgd.errors import ConfigError, RunDirectoryError, counted, nearest
from distsgd.system.secrets import redacted
from distsgd.tracking import reading
from distsgd.tracking import uri as tracking_uri

RUN_ID = re.compile(r"[0-9a-f]{32}")


def find_runs(named: Sequence[str], uri: str | None, notes: list[str]) -> list[Run]:
    """Return the runs that the arguments name, each once, in their order; without any, those of `distsgd`.

    What the reader should know is added to `notes`. ConfigError if an argument names nothing.
    """
    ids = [name for name in named if RUN_ID.fullmatch(name) and not Path(name).exists()]
    of_ids = {read.run_id: read for read in _read_ids(ids, uri)}
    found: dict[str, Run] = {}
    for name in named or [TrackingConfig().experiment]:
        paths = run_directories(Path(name)) if named and _is_folder(name) else []
        if name in of_ids:
            runs = runs_of([of_ids[name]])
        elif paths:
            runs = _in_folder(paths, notes)
        else:
            runs = _in_experiment(name, uri, notes)
        for run in runs:
            found.setdefault(run.key, run)
    return list(found.values())


def _is_folder(name: str) -> bool:
    try:
        return name != "" and Path(name).is_dir()
    except (OSError, ValueError):  # too long, or with a null byte: certainly no folder
        return False


def _read_ids(ids: Sequence[str], uri: str | None) -> list[reading.ReadRun]:
    if not ids:
        return []
    store = tracking_uri.resolve(TrackingConfig(uri=uri))
    found = reading.read_runs(store, ids, METRICS)
    missing = [name for name in ids if name not in {run.run_id for run in found}]
    if missing:
        raise ConfigError(
            f"the MLflow store {redacted(store)!r} has no run {missing[0]!r}; give its store with --uri, or name its "
            "run directory"
        )
    return found


def _in_folder(paths: Sequence[Path], notes: list[str]) -> list[Run]:
    found = []
    for path in paths:
        try:
            found.append(read_run(path))
        except (RunDirectoryError, OSError) as error:
            if len(paths) == 1:
                raise
            notes.append(f"{str(path)!r} is left out: {error}")
    return found


def _in_experiment(name: str, uri: str | None, notes: list[str]) -> list[Run]:
    store = tracking_uri.resolve(TrackingConfig(uri=uri))
    found = reading.read_experiment(store, name, METRICS)
    if found is None:
        known = reading.experiment_names(store)
        raise ConfigError(
            f"{name!r} is neither a run directory, nor a folder that holds some, nor an experiment of the MLflow store "
            f"{redacted(store)!r}{nearest(name, known)}; it has {', '.join(map(repr, known[:10])) or 'none'}"
        )
    thinned = sum(run.thinned for run in found)
    if thinned:
        notes.append(
            f"the server gave only some of the points of {counted(thinned, 'run')}, evenly spaced; their last ones "
            "are there"
        )
    return runs_of(found)
