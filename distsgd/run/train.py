"""`distsgd.train`: the checks and setup before the first step of a run."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from distsgd.cluster.connection import address_of, joined
from distsgd.config import IN_MEMORY, Config
from distsgd.data import DataSet
from distsgd.engine.arithmetic import check_sums_stay_exact
from distsgd.errors import ConfigError, TrackingError
from distsgd.run.hooks import StepCheck
from distsgd.run.lasting import check_run_directory, with_lasting_store
from distsgd.run.memory_check import check_net_fits
from distsgd.run.observer import Observer
from distsgd.run.opening import opened_session
from distsgd.run.origin import NewRun, ResumedRun
from distsgd.run.rows import is_path, read_rows
from distsgd.run.session import Session
from distsgd.run.trainer import environment, start_trainer
from distsgd.rundir.folders import check_current_folder
from distsgd.rundir.result import Result
from distsgd.system.signals import StopRequest, stop_signals_raise
from distsgd.tracking.sync import sync_locked
from distsgd.tracking.tracker import make_tracker

if TYPE_CHECKING:
    from distsgd.cluster.rows import SharedRows


def train(
    config: Config | Mapping[str, Any] | None = None,
    *,
    data: Any = None,
    val: Any = None,
    resume: bool = False,
    observer: Observer | None = None,
    check: StepCheck | None = None,
) -> Result:
    """Train a classifier, as `api.train` says, and tell an `observer` of the progress; nothing is shown without one.

    A `check` may end training before its last step.
    """
    config = with_data(config, {"data.train": data, "data.val": val})
    observer = observer or Observer()
    check_current_folder()
    with stop_signals_raise(), contextlib.ExitStack() as stack:
        check_run_directory(config)
        origin = ResumedRun.of(config, stack) if resume else NewRun.of(config)
        if isinstance(origin, ResumedRun) and origin.finished is not None and origin.is_done:
            return _already_finished(origin, origin.finished, observer)
        return _begin(origin, (data, val), observer, stack, check).execute()


def train_on(
    rows: SharedRows, config: Config, *, resume: bool, observer: Observer, stop_request: StopRequest
) -> Result:
    """Train as `train` does, in a process that is connected to Ray, on rows that another one has read and checked.

    They have to be those that the configuration names. Training ends when `stop_request` is noted.
    """
    with contextlib.ExitStack() as stack:
        origin = ResumedRun.of(config, stack) if resume else NewRun.of(config)
        if isinstance(origin, ResumedRun) and origin.finished is not None and origin.is_done:
            return _already_finished(origin, origin.finished, observer)
        return _begin(origin, rows, observer, stack, stop_request=stop_request).execute()


def with_data(config: object, given: Mapping[str, Any]) -> Config:
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
        location = os.fsdecode(rows) if is_path(rows) else IN_MEMORY
        if explicit.get(key, defaults[key]) not in (defaults[key], location):
            argument = {"data.train": "data", "data.val": "val"}[key]
            raise ConfigError(f"{key} is {explicit[key]!r}, and {argument}= was passed to train() as well; keep one")
        explicit[key] = location
    return Config.build(explicit)


def _begin(
    origin: NewRun | ResumedRun,
    given: tuple[Any, Any] | SharedRows,
    observer: Observer,
    stack: contextlib.ExitStack,
    check: StepCheck | None = None,
    stop_request: StopRequest | None = None,
) -> Session:
    """Set up a run, ordered so that refusals come as early as possible; `stack` cleans everything up.

    `given` are the rows, or training and held-out rows in memory; what is None or a path is read as the configuration
    says. No reference to the rows read here is kept: on Ray, training uses the node's shared copy.
    """
    requested = with_lasting_store(origin.config, observer)
    if requested.tracking.enabled and requested.tracking.required:
        observer.stage("waiting for MLflow to answer")
    tracker = stack.enter_context(make_tracker(requested.tracking))
    if address_of(requested) is not None and requested.run.workers != 0:
        observer.stage("connecting to Ray")
    cluster = stack.enter_context(joined(requested, environment(requested)))
    rows = read_rows(requested, given, observer) if isinstance(given, tuple) else given
    data = rows if isinstance(rows, DataSet) else rows.data
    check_sums_stay_exact(requested, len(data.train), len(data.classes))
    check_net_fits(
        requested,
        len(data.feature_names),
        len(data.classes),
        rows=len(data.train),
        held_out=0 if data.val is None else len(data.val),
    )
    start = origin.start(data.digest, observer)
    tracker.start()
    spec, trainer = start_trainer(requested, rows, start, cluster, stack, observer.stage, name=origin.name)
    directory = origin.open(spec, stack)
    observer.note(spec.data.description)
    if origin.resumed:
        observer.note(f"resuming {str(directory.path)!r} after step {spec.start.step} of {spec.plan.total_steps}")
    return stack.enter_context(
        opened_session(
            spec=spec,
            directory=directory,
            trainer=trainer,
            tracker=tracker,
            observer=observer,
            resumed=origin.resumed,
            check=check,
            stop_request=stop_request or StopRequest(),
        )
    )


def _already_finished(origin: ResumedRun, finished: Result, observer: Observer) -> Result:
    """Return the result of a finished run, after sending it to MLflow if the driver died before doing so."""
    observer.note(f"the run in {str(origin.directory.path)!r} has finished; nothing is left to do")
    if not origin.config.tracking.enabled or finished.mlflow_run_id is not None:
        return finished
    try:
        synced = sync_locked(finished.run_dir, origin.config.tracking.uri)
    except TrackingError as error:
        observer.note(f"warning: {error}")
        return finished
    observer.note(f"MLflow did not have the complete run; it now does, as run {synced.run_id}")
    return dataclasses.replace(finished, mlflow_run_id=synced.run_id)
