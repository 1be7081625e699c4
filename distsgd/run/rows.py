"""The rows of a run, read as its configuration says."""

from __future__ import annotations

import os
from typing import Any

from distsgd.config import Config
from distsgd.core.losses import LOSSES
from distsgd.data import DataSet, load
from distsgd.run.measuring import check_measured
from distsgd.run.observer import Observer


def is_path(rows: Any) -> bool:
    """Return whether rows that were passed to `distsgd.train` are the path of a file."""
    return isinstance(rows, str | os.PathLike)


def read_rows(config: Config, given: tuple[Any, Any], observer: Observer) -> DataSet:
    """Return the rows of a run; tell the observer what was found out about them. RefusedError if they are unfit.

    `given` are training and held-out rows in memory; what is None or a path is read as the configuration says.
    """
    data, held_out_data = (None if is_path(rows) else rows for rows in given)
    rows = load(
        config.data,
        observer.stage,
        data=data,
        held_out_data=held_out_data,
        target=LOSSES[config.model.loss].target,
        class_weight=config.train.class_weight,
        arithmetic=config.train.arithmetic,
    )
    for notice in rows.notices:
        observer.note(notice)
    check_measured(config, rows, observer)
    return rows
