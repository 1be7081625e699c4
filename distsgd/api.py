"""`distsgd.train`: training from Python, with its progress where that can be seen."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from distsgd.cli.notebook import NotebookObserver, in_notebook
from distsgd.config import Config
from distsgd.run import train as run_train
from distsgd.run.observer import Observer
from distsgd.rundir.result import Result


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
    `progress` shows a bar, by default only in a notebook; an `observer` takes its place.
    Raises RefusedError before the first step, TrainingError after it, Stopped on SIGINT, SIGTERM or SIGHUP.
    """
    with contextlib.ExitStack() as stack:
        chosen = observer or _observer(progress, stack)
        return run_train.train(config, data=data, val=val, resume=resume, observer=chosen)


def _observer(progress: bool | None, stack: contextlib.ExitStack) -> Observer:
    notebook = in_notebook()
    if progress is False or (progress is None and not notebook):
        return Observer()
    if notebook:
        return stack.enter_context(NotebookObserver())
    from distsgd.cli.progress import make_observer

    return stack.enter_context(make_observer(quiet=False))
