"""`distsgd.train`: the checks and setup before the first step of a run."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from distsgd.cluster.connection import address_of, joined
from distsgd.config import IN_MEMORY, Config
from distsgd.core.losses import LOSSES
from distsgd.data import load
from distsgd.errors import ConfigError, TrackingError
from distsgd.run.lasting import check_run_directory, with_lasting_store
from distsgd.run.memory_check import check_net_fits
from distsgd.run.observer import Observer
from distsgd.run.origin import NewRun, ResumedRun
from distsgd.run.session import Session
from distsgd.run.trainer import environment, start_trainer
from distsgd.rundir.directory import check_current_folder
from distsgd.rundir.result import Result
from distsgd.system.signals import stop_signals_raise
from distsgd.tracking.sync import sync_locked
from distsgd.tracking.tracker import make_tracker


def train(
    config: Config | Mapping[str, Any] | None = None,
    *,
    data: Any = None,
    val: Any = None,
    resume: bool = False,
    observer: Observer | None = None,
) -> Result:
    """Train a classifier, as `api.train` says, and tell an `observer` of the progress; nothing is shown without one."""
    config = _with_data(config, {"data.train": data, "data.val": val})
    observer = observer or Observer()
    check_current_folder()
    with stop_signals_raise(), contextlib.ExitStack() as stack:
        check_run_directory(config)
        origin = ResumedRun.of(config, stack) if resume else NewRun.of(config)
        if isinstance(origin, ResumedRun) and origin.finished is not None and origin.is_done:
            observer.note(f"the run in {str(origin.directory.path)!r} has finished; nothing is left to do")
            return _tracked(origin.finished, origin.config, observer)
        return _begin(origin, (data, val), observer, stack).execute()


def _with_data(config: object, given: Mapping[str, Any]) -> Config:
    """Return the configuration, in which the rows that were `given` have taken the place of the paths."""
    if config is not None and not isinstance(config, Config | Mapping):
        raise ConfigError(
            f"distsgd.train takes a mapping of keys, such as {{'data.train': 'rows.parquet'}}, or a Config; found a "
            f"{type(config).__name__}"
        )
    if not isinstance(config, Config):
        config = Config.build(config or {})
    if all(rows is None for rows in given.values()):
        return config
    explicit, defaults = config.explicit(), Config().flat()
    for key, rows in given.items():
        if rows is None:
            continue
        location = os.fsdecode(rows) if _is_path(rows) else IN_MEMORY
        if explicit.get(key, defaults[key]) not in (defaults[key], location):
            argument = {"data.train": "data", "data.val": "val"}[key]
            raise ConfigError(f"{key} is {explicit[key]!r}, and {argument}= was passed to train() as well; keep one")
        explicit[key] = location
    return Config.build(explicit)


def _is_path(rows: Any) -> bool:
    return isinstance(rows, str | os.PathLike)


def _begin(
    origin: NewRun | ResumedRun, given: tuple[Any, Any], observer: Observer, stack: contextlib.ExitStack
) -> Session:
    """Set up a run, ordered so that refusals come as early as possible; `stack` cleans everything up.

    `given` are training and held-out rows in memory; what is None or a path is read as the configuration says.
    No reference to the rows read here is kept: on Ray, training uses the node's shared copy.
    """
    requested = with_lasting_store(origin.config, observer)
    if requested.tracking.enabled and requested.tracking.required:
        observer.stage("waiting for MLflow to answer")
    tracker = stack.enter_context(make_tracker(requested.tracking))
    if address_of(requested) is not None and requested.run.workers != 0:
        observer.stage("connecting to Ray")
    cluster = stack.enter_context(joined(requested, environment(requested)))
    data, held_out_data = (None if _is_path(rows) else rows for rows in given)
    rows = load(
        requested.data,
        observer.stage,
        data=data,
        held_out_data=held_out_data,
        target=LOSSES[requested.model.loss].target,
        class_weight=requested.train.class_weight,
    )
    for notice in rows.notices:
        observer.note(notice)
    if requested.train.early_stopping is not None and rows.val is None:
        raise ConfigError(
            "train.early_stopping goes by held-out rows, and there are none: set data.val or data.val_fraction, or "
            "leave it out"
        )
    check_net_fits(
        requested,
        len(rows.feature_names),
        len(rows.classes),
        rows=len(rows.train),
        held_out=0 if rows.val is None else len(rows.val),
    )
    start = origin.start(rows.digest, observer)
    tracker.start()
    spec, trainer = start_trainer(requested, rows, start, cluster, stack, observer.stage)
    directory = origin.open(spec, stack)
    observer.note(spec.data.description)
    if origin.resumed:
        observer.note(f"resuming {str(directory.path)!r} after step {spec.start.step} of {spec.plan.total_steps}")
    return stack.enter_context(
        Session.opened(
            spec=spec,
            directory=directory,
            trainer=trainer,
            tracker=tracker,
            observer=observer,
            resumed=origin.resumed,
        )
    )


def _tracked(finished: Result, config: Config, observer: Observer) -> Result:
    """Return the result of a finished run, after sending it to MLflow if the driver died before doing so."""
    if not config.tracking.enabled or finished.mlflow_run_id is not None:
        return finished
    try:
        synced = sync_locked(finished.run_dir, config.tracking.uri)
    except TrackingError as error:
        observer.note(f"warning: {error}")
        return finished
    observer.note(f"MLflow did not have the complete run; it now does, as run {synced.run_id}")
    return dataclasses.replace(finished, mlflow_run_id=synced.run_id)
