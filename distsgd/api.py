"""`distsgd.train` and `distsgd.sweep`: training from Python, with its progress where that can be seen."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from distsgd.cli.notebook import NotebookObserver, in_notebook
from distsgd.cli.python_warnings import WarningObserver
from distsgd.config import Config
from distsgd.run import train as run_train
from distsgd.run.observer import Observer
from distsgd.rundir.result import Result

if TYPE_CHECKING:
    from distsgd.sweeps.result import SweepResult


def train(
    config: Config | Mapping[str, Any] | None = None,
    *,
    data: Any = None,
    val: Any = None,
    resume: bool = False,
    progress: bool | None = None,
    observer: Observer | None = None,
) -> Result:
    """Train a classifier and return the result; `result.model` is the trained classifier.

    `config` is a Config or a mapping with nested or dotted keys, such as {"optim.lr": 0.1}; without it, the defaults.
    `data` and `val` are the training and the held-out rows: a data frame (pandas, polars, pyarrow), a dict of columns,
    arrays (X, y) with X (N, D) and y (N,), or (X, y, w) with the rows' weights w (N,), or a path; without them, what
    `data.train` and `data.val` name.
    With `resume` the run in `run.dir`, or the newest one with this configuration below `runs/`, is resumed; rows in
    memory have to be passed again.
    `progress` shows a bar, by default only in a notebook; an `observer` takes its place. Without either, what the
    command line warns of is issued as `distsgd.errors.RunWarning`; all of it is in `result.warnings`.
    Raises RefusedError before the first step, TrainingError after it, Stopped on SIGINT, SIGTERM or SIGHUP.
    """
    with contextlib.ExitStack() as stack:
        chosen = observer or _observer(progress, stack) or WarningObserver(sys._getframe(1))
        result = run_train.train(config, data=data, val=val, resume=resume, observer=chosen)
        if isinstance(chosen, WarningObserver):
            chosen.issue()
        return result


def sweep(
    config: Config | Mapping[str, Any] | None = None,
    *,
    grid: Mapping[str, Sequence[Any]] | None = None,
    random: Mapping[str, str] | None = None,
    trials: int | None = None,
    seeds: int | None = None,
    search: Literal["random", "tpe"] | None = None,
    prune: bool = False,
    data: Any = None,
    val: Any = None,
    resume: bool = False,
    progress: bool = False,
) -> SweepResult:
    """Train once for each setting, as many at a time as there is room for on Ray, and return which is the best.

    `grid` has the values of each key, all combinations of which are tried, such as {"optim.lr": [0.01, 0.1]}; `random`
    has ranges, `log:LOW:HIGH` or `uniform:LOW:HIGH`, that values are drawn from for `trials` settings, or with
    `search="tpe"` chosen by what is known of those before. Each setting is repeated with `seeds` seeds, from
    `train.seed` on, and the best is the one with the best mean of what `train.stopping_metric` names. `prune` ends
    trials that are worse than the median of the finished ones. The other arguments are those of `train`; `progress`
    prints lines, or a table on a terminal; without it, what the command line warns of, and trials that failed, are
    issued as `distsgd.errors.RunWarning`. Raises RefusedError before the first trial, TrainingError if all have
    failed, Stopped on SIGINT, SIGTERM or SIGHUP; with `resume` the sweep in `run.dir` goes on.
    """
    from distsgd.cli.sweep_progress import WarningSweepObserver, make_sweep_observer
    from distsgd.sweeps.options import SearchOptions
    from distsgd.sweeps.sweep import sweep as run_sweep

    asked = SearchOptions(grid=grid or {}, random=random or {}, trials=trials, seeds=seeds, search=search, prune=prune)
    with contextlib.ExitStack() as stack:
        shown = stack.enter_context(make_sweep_observer(quiet=False)) if progress else None
        chosen = shown or WarningSweepObserver(sys._getframe(1))
        result = run_sweep(config, asked, data=data, val=val, resume=resume, observer=chosen)
        if isinstance(chosen, WarningSweepObserver):
            chosen.issue()
        return result


def _observer(progress: bool | None, stack: contextlib.ExitStack) -> Observer | None:
    """Return what shows the progress; None if nothing does."""
    notebook = in_notebook()
    if progress is False or (progress is None and not notebook):
        return None
    if notebook:
        return stack.enter_context(NotebookObserver())
    from distsgd.cli.progress import make_observer

    return stack.enter_context(make_observer(quiet=False))
