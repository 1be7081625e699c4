"""The machine's use beside a run's metrics, and one axis for runs with different numbers of workers."""

from __future__ import annotations

import threading

import pytest
from tracking_helpers import MlflowClient, stored_points, train

import distsgd

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200), pytest.mark.usefixtures("own_folder")]

MEASURED = {
    "system/cpu_utilization_percentage",
    "system/system_memory_usage_megabytes",
    "system/disk_usage_percentage",
    "system/network_receive_megabytes",
}


def system_points(uri: str, run_id: str) -> dict[str, list[int]]:
    run = MlflowClient(uri).get_run(run_id)
    return {key: [p[0] for p in points] for key, points in stored_points(uri, run).items() if key.startswith("system/")}


def test_they_are_logged_if_asked_for_go_on_with_the_run_and_change_no_bit(tmp_path, empty_store, monkeypatch):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.001")
    measured = train(tmp_path / "run", empty_store, tracking__system_metrics=True)
    assert measured.warnings == []
    assert not [thread for thread in threading.enumerate() if "SystemMetrics" in thread.name]
    before = system_points(empty_store, measured.mlflow_run_id)
    assert set(before) >= MEASURED
    longer = train(tmp_path / "run", empty_store, resume=True, train__epochs=4)
    assert longer.mlflow_run_id == measured.mlflow_run_id
    for key, steps in system_points(empty_store, measured.mlflow_run_id).items():
        assert steps == list(range(len(steps))), key
        assert len(steps) > len(before[key])
    plain = train(tmp_path / "plain", empty_store, train__epochs=4)
    assert system_points(empty_store, plain.mlflow_run_id) == {}
    assert plain.weights_sha256 == longer.weights_sha256


def test_a_machine_that_cannot_be_measured_is_a_warning(tmp_path, empty_store, monkeypatch):
    import psutil

    def refused() -> None:
        raise PermissionError(13, "Permission denied", "/proc/stat")

    monkeypatch.setattr(psutil, "cpu_percent", refused)
    result = train(tmp_path / "run", empty_store, tracking__system_metrics=True)
    (warning,) = result.warnings
    assert warning.startswith("there are no system metrics: [Errno 13] Permission denied: '/proc/stat'")
    assert MlflowClient(empty_store).get_run(result.mlflow_run_id).info.status == "FINISHED"


def test_runs_with_different_numbers_of_workers_have_the_same_points_at_the_same_steps(tmp_path, empty_store, cluster):
    runs = []
    for workers in (0, 1, 2):
        values = {"run.workers": workers, "model.hidden": 8, "train.epochs": 2, "tracking.uri": empty_store}
        address = {"run.address": cluster.address} if workers else {}
        result = distsgd.train(values | address | {"run.dir": str(tmp_path / f"run-{workers}")})
        points = stored_points(empty_store, MlflowClient(empty_store).get_run(result.mlflow_run_id))
        runs.append({key: [(step, value) for step, value, _ in found] for key, found in points.items()})
    for points in runs[1:]:
        for key in ("train/loss", "train/epoch_loss", "val/loss", "val/accuracy"):
            assert points[key] == runs[0][key]
