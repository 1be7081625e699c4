"""A run from its configuration to its result: what is checked and set up before the first step."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from distsgd import data
from distsgd.cluster import connection as cluster
from distsgd.cluster.connection import Cluster
from distsgd.config import Config
from distsgd.core import numerics
from distsgd.engine.local import LocalTrainer
from distsgd.engine.spec import RunSpec
from distsgd.errors import ConfigError, ResourceError, RunDirectoryError, TrackingError
from distsgd.run.session import Observer, Session, Trainer
from distsgd.rundir import checkpoint
from distsgd.rundir import directory as rundir
from distsgd.rundir.result import Result
from distsgd.system import faults
from distsgd.system.signals import sigterm_raises
from distsgd.tracking.sync import sync_locked
from distsgd.tracking.tracker import make_tracker


def train(
    config: Config | Mapping[str, Any] | None = None, *, resume: bool = False, observer: Observer | None = None
) -> Result:
    """Train a classifier and return how it went; `result.model` predicts.

    `config` is a Config or a mapping with nested or dotted keys, such as {"optim.lr": 0.1}; without it, the defaults.
    With `resume` the run in `run.dir`, or the newest of this configuration below `runs/`, goes on.
    Raises RefusedError before the first step, TrainingError after it, Stopped on SIGINT or SIGTERM.
    """
    if not isinstance(config, Config):
        config = Config.build(config or {})
    observer = observer or Observer()
    with sigterm_raises(), contextlib.ExitStack() as stack:
        return _resume(config, observer, stack) if resume else _begin(config, observer, stack)


def _begin(config: Config, observer: Observer, stack: contextlib.ExitStack) -> Result:
    """Start a new run; the run directory is made last, when nothing can be refused any more."""
    path = Path(config.run.dir) if config.run.dir else rundir.default_path(config)
    rundir.check_new(path)
    tracker = stack.enter_context(make_tracker(config.tracking))
    joined = stack.enter_context(cluster.joined(config, _environment(config)))
    spec = RunSpec.beginning(config, data.load(config.data))
    tracker.start()
    trainer, spec = _make_trainer(spec, path, joined, stack)
    stack.enter_context(rundir.locked(path))
    rundir.check_new(path)
    directory = rundir.create(path, resolved=spec.config, requested=config, data_digest=spec.data.digest)
    return Session(
        spec=spec, directory=directory, trainer=trainer, tracker=tracker, observer=observer, resumed=False
    ).execute()


def _resume(config: Config, observer: Observer, stack: contextlib.ExitStack) -> Result:
    """Go on with a run from its newest valid checkpoint, or from its first step if it has none."""
    path = Path(config.run.dir) if config.run.dir else rundir.find_resumable(config)
    directory, stored, data_digest = rundir.read(path)
    config = _resumed_config(stored, config, path)
    stack.enter_context(rundir.locked(path))
    finished = Result.read(path)
    if finished is not None and finished.status == "FINISHED":
        observer.note(f"the run in {str(path)!r} has finished; nothing is left to do")
        return _tracked(finished, config, observer)
    tracker = stack.enter_context(make_tracker(config.tracking))
    joined = stack.enter_context(cluster.joined(config, _environment(config)))
    spec = RunSpec.beginning(config, data.load(config.data))
    if spec.data.digest != data_digest:
        raise RunDirectoryError(
            f"the rows of {config.data.train!r} are not those that the run in {str(path)!r} began with; "
            "name the same data, or start a new run"
        )
    identity = rundir.identity(directory, config, data_digest)
    newest, problems = checkpoint.load_newest(directory.checkpoints, identity)
    for problem in problems:
        observer.note(f"warning: {problem}")
    spec = dataclasses.replace(spec, start=newest or spec.start)
    observer.note(f"resuming {str(path)!r} after step {spec.start.step} of {spec.plan.total_steps}")
    tracker.start()
    trainer, spec = _make_trainer(spec, path, joined, stack)
    return Session(
        spec=spec, directory=directory, trainer=trainer, tracker=tracker, observer=observer, resumed=True
    ).execute()


def _tracked(finished: Result, config: Config, observer: Observer) -> Result:
    """Return the result of a finished run; it is sent to MLflow if the driver died before it had done that."""
    if not config.tracking.enabled or finished.mlflow_run_id is not None:
        return finished
    try:
        synced = sync_locked(finished.run_dir)
    except TrackingError as error:
        observer.note(f"warning: {error}")
        return finished
    observer.note(f"MLflow did not have the whole run; it has it now, as run {synced.run_id}")
    return dataclasses.replace(finished, mlflow_run_id=synced.run_id)


def _resumed_config(stored: Config, given: Config, path: Path) -> Config:
    """Return the stored configuration with what was given explicitly now; ConfigError if that changes the result."""
    explicit = given.explicit()
    config = stored.with_values(explicit)
    if config.digest() != stored.digest():
        was, now = stored.flat(), config.flat()
        changed = ", ".join(f"{key} was {was[key]!r} and is {now[key]!r}" for key in explicit if was[key] != now[key])
        raise ConfigError(f"the run in {str(path)!r} cannot be resumed with another configuration: {changed}")
    return config


def _environment(config: Config) -> dict[str, str]:
    """Return the variables that the processes of a run need, on whatever node they are."""
    return numerics.environment(config.run.blas_threads, config.run.blas_kernel) | faults.environment()


def _workers_wanted(config: Config) -> int:
    """Return how many workers the cluster that this process has joined has room for now."""
    return cluster.default_workers(config, cluster.total_cpus())


def _make_trainer(
    spec: RunSpec, path: Path, joined: Cluster | None, stack: contextlib.ExitStack
) -> tuple[Trainer, RunSpec]:
    """Return a trainer that is closed with `stack`, and the spec with what `auto` came to in its configuration."""
    config = spec.config
    if config.run.workers == 0:
        resolved: dict[str, Any] = {"run.device": "cpu"}
        trainer: Trainer = LocalTrainer(spec)
    else:
        from distsgd.cluster.trainer import RayTrainer

        found = joined or stack.enter_context(cluster.started(config, _environment(config), data_bytes=spec.data_bytes))
        workers = cluster.default_workers(config, found.cpus)
        if workers < config.run.min_workers:
            raise ResourceError(
                f"run.workers is 'auto', which comes to {workers} here, fewer than run.min_workers, "
                f"{config.run.min_workers}; lower that, or add nodes"
            )
        device = cluster.choose_device(config, workers, found)
        resolved = {"run.workers": workers, "run.device": device}
        wanted = partial(_workers_wanted, config) if config.run.workers == "auto" and not found.local else None
        trainer = RayTrainer(
            spec,
            workers=workers,
            device=device,
            runtime_env=found.runtime_env,
            wanted=wanted,
        )
    stack.callback(trainer.close)
    config = config.with_values({**resolved, "run.dir": str(path)})
    return trainer, dataclasses.replace(spec, config=config, data=trainer.data)
