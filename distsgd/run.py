"""A run from its configuration to its result: what is checked and set up before the first step."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distsgd import checkpoint, cluster, data, numerics, rundir
from distsgd.backend import Device
from distsgd.config import Config
from distsgd.data import DataSet
from distsgd.errors import ConfigError, RunDirectoryError
from distsgd.local import LocalTrainer
from distsgd.model import Net
from distsgd.result import Result
from distsgd.session import Observer, Session, Trainer
from distsgd.state import Plan, Snapshot


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
    with contextlib.ExitStack() as stack:
        if resume:
            return _resume(config, observer, stack)
        path = Path(config.run.dir) if config.run.dir else rundir.default_path(config)
        rundir.check_new(path)
        dataset = data.load(config.data)
        plan, net, start = _beginning(config, dataset)
        trainer, resolved = _make_trainer(config, path, dataset, plan, net, start, stack)
        stack.enter_context(rundir.locked(path))
        rundir.check_new(path)
        directory = rundir.create(path, resolved=resolved, requested=config, data_digest=dataset.digest)
        identity = rundir.identity(directory, config, dataset.digest)
        session = Session(
            config=resolved,
            directory=directory,
            trainer=trainer,
            plan=plan,
            net=net,
            start=start,
            observer=observer,
            identity=identity,
            resumed=False,
        )
        return session.execute()


def _resume(config: Config, observer: Observer, stack: contextlib.ExitStack) -> Result:
    path = Path(config.run.dir) if config.run.dir else rundir.find_resumable(config)
    directory, stored, data_digest = rundir.read(path)
    config = _resumed_config(stored, config, path)
    stack.enter_context(rundir.locked(path))
    finished = Result.read(path)
    if finished is not None and finished.status == "FINISHED":
        observer.note(f"the run in {str(path)!r} has finished; nothing is left to do")
        return finished
    dataset = data.load(config.data)
    if dataset.digest != data_digest:
        raise RunDirectoryError(
            f"the rows of {config.data.train!r} are not those that the run in {str(path)!r} began with; "
            "name the same data, or start a new run"
        )
    plan, net, start = _beginning(config, dataset)
    identity = rundir.identity(directory, config, dataset.digest)
    newest, problems = checkpoint.load_newest(directory.checkpoints, identity)
    for problem in problems:
        observer.note(f"warning: {problem}")
    observer.note(f"resuming {str(path)!r} after step {newest.step if newest else 0} of {plan.total_steps}")
    start = newest or start
    trainer, resolved = _make_trainer(config, path, dataset, plan, net, start, stack)
    session = Session(
        config=resolved,
        directory=directory,
        trainer=trainer,
        plan=plan,
        net=net,
        start=start,
        observer=observer,
        identity=identity,
        resumed=True,
    )
    return session.execute()


def _resumed_config(stored: Config, given: Config, path: Path) -> Config:
    """Return the stored configuration with what was given explicitly now; ConfigError if that changes the result."""
    explicit = given.explicit()
    config = stored.with_values(explicit)
    if config.digest() != stored.digest():
        was, now = stored.flat(), config.flat()
        changed = ", ".join(f"{key} was {was[key]!r} and is {now[key]!r}" for key in explicit if was[key] != now[key])
        raise ConfigError(f"the run in {str(path)!r} cannot be resumed with another configuration: {changed}")
    return config


def _beginning(config: Config, dataset: DataSet) -> tuple[Plan, Net, Snapshot]:
    """Return the plan, the net and the state before the first step."""
    net = Net(dataset.train.X.shape[1], config.model.hidden, len(dataset.classes))
    flat = net.initial(config.train.seed, config.model.scale)
    velocity = 0 * flat if config.optim.momentum else None
    return Plan.of(config, len(dataset.train.y)), net, Snapshot(step=0, parameters=flat, velocity=velocity)


def _make_trainer(
    config: Config, path: Path, dataset: DataSet, plan: Plan, net: Net, start: Snapshot, stack: contextlib.ExitStack
) -> tuple[Trainer, Config]:
    """Return a trainer that is closed with `stack`, and the configuration with what `auto` came to."""
    trainer: Trainer
    device: Device = "cpu"
    workers = config.run.workers
    if workers == 0:
        if config.run.device == "cuda":
            raise ConfigError("run.workers=0 is the serial loop on the CPU; run.device=cuda needs a worker")
        trainer = LocalTrainer(config=config, data=dataset, net=net, plan=plan, start=start)
    else:
        from distsgd.trainer import RayTrainer

        environment = numerics.environment(config.run.blas_threads, config.run.blas_kernel)
        size = sum(part.X.nbytes + part.y.nbytes for part in (dataset.train, dataset.val) if part is not None)
        found = stack.enter_context(cluster.connected(config, data_bytes=size, environment=environment))
        workers = cluster.default_workers(config, found.cpus) if workers == "auto" else workers
        cluster.check_cpus(config, workers, found)
        device = cluster.choose_device(config, workers, found)
        trainer = RayTrainer(
            config=config, workers=workers, device=device, data=dataset, net=net, plan=plan, start=start
        )
    stack.callback(trainer.close)
    return trainer, config.with_values({"run.workers": workers, "run.device": device, "run.dir": str(path)})
