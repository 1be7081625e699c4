"""Points of metrics, sent to a store many at a time.

To a server, the request is written here: MLflow's client takes six times as long for it, and training in the same
process has to wait for that, because Python runs one thread at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mlflow.entities import Metric
from mlflow.tracking import MlflowClient
from mlflow.tracking._tracking_service.utils import _get_store
from mlflow.utils.rest_utils import http_request, verify_rest_response

PER_REQUEST = 1000
"""MLflow's limit."""

ENDPOINT = "/api/2.0/mlflow/runs/log-batch"


class Point(NamedTuple):
    """The value of a metric, with the names that MLflow has for its parts."""

    key: str
    value: float
    timestamp: int
    """In milliseconds since 1970."""
    step: int


def log_points(client: MlflowClient, run_id: str, points: Sequence[Point]) -> None:
    """Log points of a run, in their order; what the store raises is passed on."""
    is_server = client.tracking_uri.startswith(("http://", "https://"))
    for start in range(0, len(points), PER_REQUEST):
        part = points[start : start + PER_REQUEST]
        if is_server:
            _post(client.tracking_uri, run_id, part)
        else:
            client.log_batch(run_id, metrics=[Metric(*point) for point in part])


def _post(uri: str, run_id: str, points: Sequence[Point]) -> None:
    credentials = _get_store(uri).get_host_creds()  # type: ignore[no-untyped-call]
    content = {"run_id": run_id, "metrics": [point._asdict() for point in points]}
    reply = http_request(credentials, ENDPOINT, "POST", json=content)  # type: ignore[no-untyped-call]
    verify_rest_response(reply, ENDPOINT)
