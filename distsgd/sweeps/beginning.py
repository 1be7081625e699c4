"""How a sweep starts: as a new one, or resumed from its directory."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from distsgd.config import Config
from distsgd.errors import ConfigError, RunDirectoryError
from distsgd.rundir import folders, lock
from distsgd.sweeps import store
from distsgd.sweeps.options import SearchOptions
from distsgd.sweeps.space import Space
from distsgd.sweeps.store import Sweep
from distsgd.system.secrets import redacted

PREFIX = "sweep-"
"""How the names of directories begin that are not given."""

NOT_IN_NAMES = "'\"`\\"
"""Characters that MLflow cannot search for."""


@dataclass
class Begun:
    """A sweep that is about to run."""

    sweep: Sweep
    base: Config
    """The configuration that the trials share."""
    path: Path | None
    """Its directory; None: a new folder below `runs/`."""
    is_new: bool

    def opened(self, stack: contextlib.ExitStack) -> Path:
        """Return the directory, which is created and locked if the sweep is new."""
        if self.path is None:
            self.path = folders.make_default(folders.default_name(self.base, PREFIX))
        if self.is_new:
            stack.enter_context(lock.locked(self.path))
            folders.check_new(self.path)
            name = "".join(c for c in self.path.resolve().name if c.isprintable() and c not in NOT_IN_NAMES)
            self.sweep.parent = f"{self.base.run.name or name} ({self.sweep.key[:8]})"
        return self.path


def new_sweep(base: Config, search: SearchOptions) -> Begun:
    """Return a new sweep; ConfigError if its space cannot be used, RunDirectoryError if its directory is in use."""
    _check_base(base)
    space = search.space(base)
    path = folders.named(base)
    if path is not None:
        folders.check_new(path)
    requested = base.explicit()
    if base.tracking.uri is not None:
        requested["tracking.uri"] = redacted(base.tracking.uri)
    method = search.search or "random"
    sweep = Sweep(parent="", space=space, method=method, prune=search.prune, requested=requested)
    return Begun(sweep, base, path, is_new=True)


def resumed_sweep(given: Config, search: SearchOptions, stack: contextlib.ExitStack) -> Begun:
    """Return the sweep in `run.dir`, or the newest below `runs/`, and lock its directory.

    Trials that have finished, were pruned or diverged stay so; the others go on. ConfigError if what is asked for now
    is not what the sweep began with; there may be more trials. What is not asked for is as it was.
    """
    path = folders.named(given) or _newest()
    store.read(path)
    stack.enter_context(lock.locked(path))
    sweep = store.read(path)
    base = Config.build(sweep.requested, given.explicit())
    _check_base(base)
    if base.digest() != sweep.base.digest():
        was, now = sweep.base.flat(), base.flat()
        changed = [f"{key} was {was[key]!r} and is {now[key]!r}" for key in given.explicit() if was[key] != now[key]]
        raise ConfigError(
            f"the sweep in {str(path)!r} cannot be resumed with another configuration: {', '.join(changed)}"
        )
    sweep.space = _resumed_space(sweep, base, search, path)
    sweep.status = "RUNNING"
    for trial in sweep.trials:
        if trial.state in ("RUNNING", "KILLED") or (trial.state == "FAILED" and not trial.repeats):
            trial.state, trial.error = "PENDING", None
    return Begun(sweep, base, path, is_new=False)


def _check_base(base: Config) -> None:
    if base.tracking.parent is not None:
        raise ConfigError("tracking.parent is set, but the trials of a sweep have a parent of their own; leave it out")


def _resumed_space(sweep: Sweep, base: Config, search: SearchOptions, path: Path) -> Space:
    """Return what a resumed sweep tries: what it began with, or more trials of that. ConfigError for anything else."""
    began = sweep.space
    options = (("seeds", began.seeds, search.seeds), ("search", sweep.method, search.search))
    changed = [(f"--{name} {was}", f"--{name} {now}") for name, was, now in options if now not in (None, was)]
    if search.prune and not sweep.prune:
        changed.append(("no --prune", "--prune"))
    if changed:
        was, now = (" and ".join(texts) for texts in zip(*changed, strict=True))
        raise ConfigError(
            f"the sweep in {str(path)!r} began with {was}, and {now} is asked for; leave that out, or start a new sweep"
        )
    if search.varies:
        more = dataclasses.replace(search, trials=began.settings) if search.random and search.trials is None else search
        space = more.space(base, seeds=began.seeds)
        if _values(space) != _values(began):
            raise ConfigError(
                f"the sweep in {str(path)!r} varies other values; give those that it began with, or none (--trials may "
                "be raised)"
            )
    else:
        space = began if search.trials is None else began.with_settings(search.trials)
    if space.settings < began.settings:
        raise ConfigError(
            f"the sweep in {str(path)!r} began with --trials {began.settings}, and --trials {space.settings} is asked "
            "for; it may only be raised"
        )
    return space


def _values(space: Space) -> str:
    return json.dumps(dataclasses.asdict(dataclasses.replace(space, settings=0)), default=str)


def _newest() -> Path:
    """Return the newest directory below `runs/` that holds a sweep."""
    found = [file for file in folders.RUNS.glob(f"*/{store.FILE}") if file.is_file()]
    if not found:
        raise RunDirectoryError(
            f"no sweep is in {str(folders.RUNS)!r}; name its directory (--run-dir, run.dir), or leave --resume out to "
            "start one"
        )
    return max(found, key=lambda file: file.stat().st_mtime).parent
