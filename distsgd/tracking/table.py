"""The columns of an experiment's table of runs in MLflow's pages.

MLflow shows neither metrics nor parameters in it unless they are selected. A selection can be stored as a tag of the
experiment, as its *Share* button does, and a link that names the tag opens the table with it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Sequence

VIEW = "distsgd"
"""Name of the view."""

TAG = f"mlflow.sharedViewState.{VIEW}"
"""Tag of the experiment that holds the view, as JSON."""

METRICS = ("best/val_accuracy", "val/accuracy", "val/loss")
"""Metrics that have a column; they are also logged first, since MLflow compares runs by the first metric of a store."""

NUMBER_METRICS = ("best/val_r2", "val/r2", "val/mse", "val/loss")
"""The same for runs that predict numbers."""

LATER = ("train/lr", "time/samples_per_s", "time/step_ms")
"""Metrics that are logged after all others."""

MAX_PARAMETERS = 20
"""Parameters that have a column."""


@functools.cache
def rank(metric: str) -> int:
    """Return the place of a metric among those that are logged together: accuracy first, times last."""
    first = list(dict.fromkeys((*METRICS[:-1], *NUMBER_METRICS)))
    if metric in first:
        return first.index(metric)
    return len(first) + (LATER.index(metric) + 1 if metric in LATER else 0)


def view(stored: str | None, parameters: Iterable[str], metrics: Sequence[str] = METRICS) -> str:
    """Return the view with columns for the parameters of a run, and for those that the stored view has already."""
    have = _columns(stored)
    wanted = [f"params.`{name}`" for name in parameters]
    of_parameters = list(dict.fromkeys([column for column in have if column.startswith("params.")] + wanted))
    columns = [f"metrics.`{name}`" for name in metrics] + of_parameters[:MAX_PARAMETERS]
    return json.dumps({"selectedColumns": columns})


def _columns(stored: str | None) -> list[str]:
    """Return the columns of a stored view; none if it is not one of ours."""
    try:
        return [str(column) for column in json.loads(stored or "")["selectedColumns"]]
    except (ValueError, KeyError, TypeError):
        return []
