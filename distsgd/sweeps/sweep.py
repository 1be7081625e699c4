"""`distsgd.sweep`: the checks and setup before the first trial, and what is returned after the last one."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distsgd.cluster.connection import address_of, joined, started
from distsgd.cluster.resources import Cluster
from distsgd.cluster.rows import SharedRows
from distsgd.cluster.trial_pool import Share, TrialPool
from distsgd.config import Config
from distsgd.errors import RunDirectoryError, Stopped, TrainingError, counted
from distsgd.run.ending import stopped_at_once
from distsgd.run.lasting import check_run_directory, with_lasting_store
from distsgd.run.train import with_data
from distsgd.run.trainer import environment
from distsgd.rundir import folders
from distsgd.sweeps import store
from distsgd.sweeps.beginning import Begun, new_sweep, resumed_sweep
from distsgd.sweeps.observer import SweepObserver
from distsgd.sweeps.options import SearchOptions
from distsgd.sweeps.plan import TrialPlan, workers_of
from distsgd.sweeps.result import SweepResult
from distsgd.sweeps.runner import TrialRunner
from distsgd.sweeps.scheduler import Scheduler
from distsgd.sweeps.trial import Metric
from distsgd.system.jobs import resume_command
from distsgd.system.signals import StopRequest, noted_stop_signals, stop_signals_raise
from distsgd.tracking import uri as tracking_uri
from distsgd.tracking.tracker import make_tracker


def sweep(
    config: Config | Mapping[str, Any] | None,
    search: SearchOptions,
    *,
    data: Any = None,
    val: Any = None,
    resume: bool = False,
    observer: SweepObserver | None = None,
) -> SweepResult:
    """Train the trials of a sweep, as `api.sweep` says, and tell an `observer` of the progress."""
    base = with_data(config, {"data.train": data, "data.val": val})
    observer = observer or SweepObserver()
    folders.check_current_folder()
    with stop_signals_raise(), contextlib.ExitStack() as stack:
        check_run_directory(base)
        begun = resumed_sweep(base, search, stack) if resume else new_sweep(base, search)
        return _run(begun, (data, val), observer, stack)


def _run(begun: Begun, given: tuple[Any, Any], observer: SweepObserver, stack: contextlib.ExitStack) -> SweepResult:
    """Train all trials that are not over, and return what was found; `stack` cleans everything up."""
    sweep, base = begun.sweep, begun.base
    metric = Metric.named(base.train.stopping_metric)
    plan = TrialPlan(sweep, base, metric)
    if sweep.method == "random":  # else each setting depends on how good those before it are
        while plan.draw_setting():
            pass
    if plan.has_more:
        _train(begun, plan, metric, given, observer, stack)
    else:
        observer.note(f"the sweep in {str(begun.path)!r} is complete; nothing is left to train")
    assert begun.path is not None
    best = next((trial for trial in sweep.trials if trial.number == sweep.best), None)
    if best is None and any(trial.state == "FINISHED" for trial in sweep.trials):
        raise TrainingError(f"{metric.key} was not measured, by which train.stopping_metric compares the trials")
    if best is None:
        first = next((trial for trial in sweep.trials if trial.error is not None), sweep.trials[0])
        failed = "the only trial" if len(sweep.trials) == 1 else f"all {len(sweep.trials)} trials"
        raise TrainingError(f"{failed} failed; trial {first.number}: {first.error}")
    return SweepResult(
        path=begun.path.absolute(), trials=sweep.trials, metric=metric, best=best, command=plan.command(best)
    )


def _train(
    begun: Begun,
    plan: TrialPlan,
    metric: Metric,
    given: tuple[Any, Any],
    observer: SweepObserver,
    stack: contextlib.ExitStack,
) -> None:
    """Read the rows, start the processes, and run all trials. Stopped if a signal ended that."""
    sweep, base = begun.sweep, begun.base
    tracking = with_lasting_store(base, observer).tracking
    uri = None
    if tracking.enabled:
        uri = tracking_uri.absolute(tracking_uri.resolve(tracking))
        tracking_uri.link_uri(tracking, uri)  # which is refused if it is no address
    if tracking.required:
        observer.stage("waiting for MLflow to answer")
        stack.enter_context(make_tracker(tracking))
    cluster, tickets = _shared_rows(begun, plan, given, observer, stack)
    each = Config.build(base.explicit(), {"run.workers": workers_of(base)})
    left = sweep.space.settings * sweep.space.seeds - sum(trial.is_over for trial in sweep.trials)
    share = Share.of(each, max(1, left), cluster)
    path = begun.opened(stack)
    plan.begin(path, share, uri)
    file = store.SweepFile(path)
    file.write(sweep)
    request = StopRequest()
    arguments = (tickets, sys.argv, os.getcwd(), tracking_uri.client_settings())
    pool = TrialPool(
        TrialRunner,
        arguments,
        name=f"{sweep.parent} {uuid.uuid4().hex[:4]}",
        share=share,
        runtime_env=cluster.runtime_env,
    )
    stack.callback(pool.close)
    scheduler = Scheduler(
        plan,
        sweep,
        file,
        pool,
        metric=metric,
        max_restarts=base.run.max_restarts,
        uri=uri,
        observer=observer,
        request=request,
    )
    try:
        with noted_stop_signals(request):
            scheduler.run()
            finished = any(trial.state == "FINISHED" for trial in sweep.trials)
            sweep.status = "KILLED" if request.signum is not None else "FINISHED" if finished else "FAILED"
            file.write(sweep)
            scheduler.finish_standing()
    except KeyboardInterrupt:
        raise stopped_at_once() from None
    if request.signum is not None:
        raise _stopped(sweep, request.signum, path)


def _shared_rows(
    begun: Begun, plan: TrialPlan, given: tuple[Any, Any], observer: SweepObserver, stack: contextlib.ExitStack
) -> tuple[Cluster, list[Any]]:
    """Connect to Ray and copy the rows into its object store; return the cluster and the tickets of the rows.

    RunDirectoryError if they are not those that the sweep began with.
    """
    base, row_sets = begun.base, plan.row_sets
    for_ray = Config.build(base.explicit(), {"run.workers": max(1, workers_of(base))})
    if address_of(base) is not None:
        observer.stage("connecting to Ray")
    cluster = stack.enter_context(joined(for_ray, environment(base)))
    unshared = [row_sets.read(0, given, observer)]
    if cluster is None:
        observer.stage("starting Ray on this machine")
        needed = unshared[0].nbytes * len(row_sets)
        cluster = stack.enter_context(started(for_ray, environment(base), data_bytes=needed))
    observer.stage("copying the rows to Ray")
    shared = list[SharedRows]()
    for number in range(len(row_sets)):
        shared.append(SharedRows.put(unshared.pop() if unshared else row_sets.read(number, given, observer)))
    stack.callback(shared.clear)  # the store keeps rows only as long as this process refers to them
    digests = [part.data.digest for part in shared]
    if begun.sweep.data_digests and begun.sweep.data_digests != digests:
        raise RunDirectoryError(
            f"the rows are not those that the sweep in {str(begun.path)!r} began with; give the same data, or start a "
            "new sweep"
        )
    begun.sweep.data_digests = digests
    return cluster, [part.ticket() for part in shared]


def _stopped(sweep: store.Sweep, signum: int, path: Path) -> Stopped:
    over, all_trials = sum(trial.is_over for trial in sweep.trials), sweep.space.settings * sweep.space.seeds
    return Stopped(
        f"stopped by {signal.Signals(signum).name} after {over} of {counted(all_trials, 'trial')}; continue with: "
        f"{resume_command(path, 'sweep')}",
        signum=signum,
    )
