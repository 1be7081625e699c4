"""The columns of an experiment's table of runs in MLflow's pages.

MLflow shows neither metrics nor parameters in it unless they are selected. A selection can be stored as a tag of the
experiment, as its *Share* button does, and a link that names the tag opens the table with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field

from pydantic import TypeAdapter, ValidationError

VIEW = "distsgd"
"""Name of the view."""

TAG = f"mlflow.sharedViewState.{VIEW}"
"""Tag of the experiment that holds the view, as JSON."""

METRICS = ("best/val_accuracy", "val/accuracy", "val/loss")
"""Metrics that have a column; they are also logged first, since MLflow compares runs by the first metric of a store."""

LATER = ("train/lr", "time/samples_per_s", "time/step_ms")
"""Metrics that are logged after all others."""

MAX_PARAMETERS = 20
"""Parameters that have a column."""

MAX_PARENTS = 20
"""Parents whose children are shown, the newest ones."""


def rank(metric: str) -> int:
    """Return the place of a metric among those that are logged together: accuracy first, times last."""
    if metric in METRICS:
        return METRICS.index(metric)
    return len(METRICS) + (LATER.index(metric) + 1 if metric in LATER else 0)


def view(stored: str | None, parameters: Iterable[str], parent: str | None = None) -> str:
    """Return the view with columns for the parameters of a run, and for those that the stored view has already.

    The children of its parent are shown below it, which MLflow hides otherwise, as are those of earlier parents.
    """
    have = _read(stored)
    before = [column for column in have.selectedColumns if column.startswith("params.")]
    of_parameters = list(dict.fromkeys(before + [f"params.`{name}`" for name in parameters]))
    columns = [f"metrics.`{name}`" for name in METRICS] + of_parameters[:MAX_PARAMETERS]
    parents = list(dict.fromkeys([*have.runsExpanded, *([] if parent is None else [parent])]))
    return json.dumps({"selectedColumns": columns, "runsExpanded": dict.fromkeys(parents[-MAX_PARENTS:], True)})


@dataclass
class _View:
    selectedColumns: list[str] = field(default_factory=list)  # noqa: N815 - MLflow's names
    runsExpanded: dict[str, bool] = field(default_factory=dict)  # noqa: N815


def _read(stored: str | None) -> _View:
    """Return a stored view; an empty one if it is not one of ours."""
    try:
        return TypeAdapter(_View).validate_json(stored or "")
    except ValidationError:
        return _View()
