"""Runs that belong together in MLflow: a run becomes the child of the caller's active run, or of a parent named for it.

MLflow cannot create a run only if there is none of that name, so two runs that start at the same time may each create
the parent. All runs prefer the same one of them, and every run that ends moves the children of the others to it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from distsgd.errors import TrackingError
from distsgd.tracking import note

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

    from distsgd.tracking.sweep import Standing

PARENT_TAG = "mlflow.parentRunId"
"""Tag by which MLflow nests a run."""

NAME_TAG = "distsgd.parent"
"""Tag of a parent that was created here: its name when it was created, which `tracking.parent` asks for."""

VARIABLE = "MLFLOW_RUN_ID"
"""Environment variable by which MLflow Projects and others tell a program which run it belongs to."""

KEPT_TAGS = ("mlflow.user", "mlflow.source.name", "mlflow.source.type", "mlflow.source.git.commit")
"""Tags that a parent gets from its first child."""

LONGEST = 6000
"""Characters of a parameter."""


def enclosing_run() -> str | None:
    """Return the ID of MLflow's active run in this thread, or the one in MLFLOW_RUN_ID; None if there is none.

    A program that has an active run has imported mlflow, so it is not imported here.
    """
    active_run = getattr(sys.modules.get("mlflow"), "active_run", None)
    run = None if active_run is None else active_run()
    return str(run.info.run_id) if run is not None else os.environ.get(VARIABLE) or None


def why_not_child(client: MlflowClient, parent_id: str, experiment_id: str, experiment: str) -> str | None:
    """Return why a run of this experiment cannot be a child of `parent_id`, and what to do; None if it can."""
    from mlflow.exceptions import MlflowException

    begin = f"this MLflow run is not a child of the active run {parent_id!r}, "
    try:
        parent = client.get_run(parent_id)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        return f"{begin}which is not in the same store; set tracking.uri to the store of that run"
    if parent.info.experiment_id != experiment_id:
        other = client.get_experiment(parent.info.experiment_id).name
        return f"{begin}which is in the experiment {other!r}, not in {experiment!r}; set tracking.experiment={other!r}"
    return None


def named_parent(client: MlflowClient, experiment_id: str, name: str, began_ms: int, tags: Mapping[str, str]) -> Run:
    """Return the parent with this name, created if there is none, and running; `tags` are those of its first child."""
    if not _parents(client, experiment_id, name):
        kept = {key: tags[key] for key in KEPT_TAGS if key in tags}
        client.create_run(experiment_id, start_time=began_ms, tags=kept | {NAME_TAG: name}, run_name=name)
    parents = _parents(client, experiment_id, name)  # another run may have created one at the same time
    if not parents:
        raise TrackingError(f"the parent run {name!r} was deleted while this run began")
    if parents[0].info.status != "RUNNING":
        client.update_run(parents[0].info.run_id, status="RUNNING")
    return parents[0]


def close(client: MlflowClient, experiment_id: str, name: str, end_ms: int | None) -> None:
    """Leave one parent with this name, which has all children, and end it unless one of them is still running."""
    parents = _parents(client, experiment_id, name)
    if not parents:
        return  # somebody has deleted it
    first, *others = (parent.info.run_id for parent in parents)
    for other in others:
        for child in _children(client, experiment_id, other):
            client.set_tag(child.info.run_id, PARENT_TAG, first)
        client.delete_run(other)
    if not any(child.info.status == "RUNNING" for child in _children(client, experiment_id, first)):
        client.set_terminated(first, status="FINISHED", end_time=end_ms)


def _parents(client: MlflowClient, experiment_id: str, name: str) -> list[Run]:
    """Return the parents with this name, in the same order for everybody."""
    order = ["attributes.start_time ASC", "attributes.run_id ASC"]
    return list(client.search_runs([experiment_id], f"tags.`{NAME_TAG}` = '{name}'", order_by=order))


def _children(client: MlflowClient, experiment_id: str, parent_id: str) -> list[Run]:
    found: list[Run] = []
    token = None
    while True:
        page = client.search_runs([experiment_id], f"tags.`{PARENT_TAG}` = '{parent_id}'", page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def update_parent(client: MlflowClient, experiment_id: str, standing: Standing) -> None:
    """Bring the parent of a sweep's trials up to date; create it if there is none."""
    from mlflow.entities import Metric, Param, RunTag

    parent = named_parent(client, experiment_id, standing.name, standing.began_ms, {})
    run_id, have = parent.info.run_id, parent.data
    now = int(time.time() * 1000)
    tags, written = dict(standing.tags), have.tags.get(note.DIGEST_TAG)
    if note.TAG not in have.tags or written == note.digest(have.tags[note.TAG]):  # else somebody has written another
        tags |= note.tags(standing.note)
    client.log_batch(
        run_id,
        metrics=[Metric(key, value, now, standing.step) for key, value in standing.metrics.items()],
        params=[Param(key, value[:LONGEST]) for key, value in standing.parameters.items() if key not in have.params],
        tags=[RunTag(key, value) for key, value in tags.items() if have.tags.get(key) != value],
    )
    for file in standing.files:
        client.log_artifact(run_id, file)
    if standing.status != "RUNNING":
        client.set_terminated(run_id, status=standing.status)
