"""Reads runs from an MLflow server by its requests for many runs together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.tracking._tracking_service.utils import _get_store
from mlflow.utils.rest_utils import http_request, verify_rest_response

from distsgd.tracking.reading import ReadRun, row_count

RUNS_PER_REQUEST = 100
POINTS_PER_RUN = 2500
"""MLflow's limits of a request for histories; of a longer one, it sends so many points, evenly spaced."""

FEW = 4
"""Runs up to which all points are asked for, run by run: where the losses of two runs part is exact then."""

ENDPOINT = "/api/2.0/mlflow/metrics/get-history-bulk-interval"
"""The request that MLflow's own pages draw their curves from; its client has no method for it."""


class ServerReader:
    """A server, with the login and the certificates that the client's own variables give."""

    def __init__(self, uri: str) -> None:
        self._client, self._uri = MlflowClient(uri), uri

    def experiment_names(self) -> list[str]:
        """See reading.experiment_names."""
        return [experiment.name for experiment in self._client.search_experiments()]

    def experiment_id(self, name: str) -> str | None:
        """Return the ID of an experiment that was not deleted, or None."""
        found = self._client.get_experiment_by_name(name)
        return None if found is None or found.lifecycle_stage != "active" else str(found.experiment_id)

    def experiment(self, name: str, metrics: Sequence[str]) -> list[ReadRun] | None:
        """See reading.read_experiment."""
        experiment_id = self.experiment_id(name)
        if experiment_id is None:
            return None
        found, token = list[Run](), None
        while True:
            page = self._client.search_runs(
                [experiment_id],
                order_by=["attributes.start_time ASC", "attributes.run_id ASC"],
                max_results=1000,
                page_token=token,
            )
            found += page
            token = page.token
            if not token:
                return self._with_points(found, metrics)

    def runs(self, run_ids: Sequence[str], metrics: Sequence[str]) -> list[ReadRun]:
        """See reading.read_runs."""
        found = []
        for run_id in run_ids:
            try:
                run = self._client.get_run(run_id)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
            else:
                found += [run] if run.info.lifecycle_stage == "active" else []
        return self._with_points(found, metrics)

    def _with_points(self, runs: Sequence[Run], metrics: Sequence[str]) -> list[ReadRun]:
        found = {run.info.run_id: _read_run(run) for run in runs}
        for metric in metrics:
            having = [run.info.run_id for run in runs if metric in run.data.metrics]
            if len(runs) <= FEW:
                for run_id in having:
                    history = self._client.get_metric_history(run_id, metric)
                    found[run_id].points[metric] = [(point.step, point.value, point.timestamp) for point in history]
                continue
            for start in range(0, len(having), RUNS_PER_REQUEST):
                for point in self._points(having[start : start + RUNS_PER_REQUEST], metric):
                    points = found[point["run_id"]].points.setdefault(metric, [])
                    points.append((int(point.get("step", 0)), float(point["value"]), int(point["timestamp"])))
            for run_id in having:
                found[run_id].thinned |= len(found[run_id].points.get(metric, [])) >= POINTS_PER_RUN
        return list(found.values())

    def _points(self, run_ids: list[str], metric: str) -> list[dict[str, Any]]:
        """Return the points of a metric of some runs, as JSON has them."""
        credentials = _get_store(self._uri).get_host_creds()  # type: ignore[no-untyped-call]
        query = {"run_ids": run_ids, "metric_key": metric, "max_results": POINTS_PER_RUN}
        reply = http_request(credentials, ENDPOINT, "GET", params=query)  # type: ignore[no-untyped-call]
        verify_rest_response(reply, ENDPOINT)
        points: list[dict[str, Any]] = reply.json().get("metrics", [])
        return points


def _read_run(run: Run) -> ReadRun:
    rows = None
    for used in run.inputs.dataset_inputs if run.inputs is not None else ():
        if any(tag.key == "mlflow.data.context" and tag.value == "training" for tag in used.tags):
            rows = row_count(used.dataset.profile)
    return ReadRun(
        run.info.run_id,
        run.info.run_name or run.info.run_id,
        run.info.status,
        dict(run.data.params),
        dict(run.data.tags),
        rows,
    )
