"""Whether the rows are those that a run was trained on, and which of them are not."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from distsgd.config import IN_MEMORY, Config
from distsgd.core.losses import LOSSES
from distsgd.data import DataSet, load
from distsgd.data.blocks import RowBlocks
from distsgd.data.files import find
from distsgd.errors import ConfigError, DataError
from distsgd.run.observer import Observer
from distsgd.verify.recorded import Recorded
from distsgd.verify.report import MAX_SHOWN, Report


def read_rows(config: Config, recorded: Recorded, report: Report, observer: Observer) -> DataSet | None:
    """Return the rows that a configuration names if they are those of the run; else report what differs.

    ConfigError if they were passed in memory, DataError if there are none where they are said to be.
    """
    if config.data.train == IN_MEMORY or config.data.val == IN_MEMORY:
        raise ConfigError(
            "the rows of this run were passed in memory, and the run directory does not keep them: write them to a "
            "file, and name it with --data (and --val)"
        )
    places: dict[str, Callable[[int], str]] = {}
    try:
        data = load(
            config.data,
            observer.stage,
            target=LOSSES[config.model.loss].target,
            class_weight=config.train.class_weight,
            arithmetic=config.train.arithmetic,
            located=places.__setitem__,
        )
    except DataError as error:
        if not all(map(_is_there, (config.data.train, config.data.val))):
            raise
        report.differs("rows", f"they cannot be read any more as a run reads them: {error}")
        return None
    if data.digest == recorded.data_digest:
        return data
    _name_differences(data, recorded, places, report)
    return None


def _name_differences(
    data: DataSet, recorded: Recorded, places: dict[str, Callable[[int], str]], report: Report
) -> None:
    """Report the rows that have changed, as far as the proof tells."""
    known: dict[str, Any] = recorded.proof.lines[0]["rows"] if recorded.proof.lines else {}
    named = False
    for name, blocks in data.blocks.items():
        try:
            before = RowBlocks.from_json(known[name])
        except (ValueError, KeyError, TypeError):
            continue
        if before.rows != blocks.rows:
            report.differs("rows", f"there are {blocks.rows:,} {name} rows, and the run had {before.rows:,}")
            named = True
            continue
        changed = before.changed(blocks)
        for rows in changed[:MAX_SHOWN]:
            report.differs("rows", f"{_rows(name, rows)} changed: {_place(places[name], rows)}")
        if len(changed) > MAX_SHOWN:
            others = sum(map(len, changed[MAX_SHOWN:]))
            report.differs("rows", f"{others:,} more of the {blocks.rows:,} {name} rows have changed")
        named = named or bool(changed)
    if not named:
        report.differs(
            "rows",
            f"their digest is {data.digest[:12]}…, and that of the run's rows {recorded.data_digest[:12]}…; which of "
            "them, or of the names of columns and classes, has changed is not recorded",
        )


def _rows(name: str, rows: range) -> str:
    """Return which rows of a part they are, counted from 0."""
    if len(rows) == 1:
        return f"{name} row {rows.start:,} has"
    return f"{name} rows {rows.start:,} to {rows.stop - 1:,}, or some of them, have"


def _place(place: Callable[[int], str], rows: range) -> str:
    first = place(rows.start)
    return first if len(rows) == 1 else f"from {first} on"


def _is_there(location: str | None) -> bool:
    """Return whether the files that a location stands for can be opened."""
    if location in (None, "digits"):
        return True
    try:
        return all(os.access(path, os.R_OK) for path in find(str(location)))
    except DataError:
        return False
