"""What the tests of tracking share: short runs, and comparing a store with the journal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from runs import without_notes

import distsgd
from distsgd.rundir.journal import Reader
from distsgd.tracking.quiet import quiet_mlflow

with quiet_mlflow():  # mlflow is imported the way distsgd does it
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

SHORT = {"run.workers": 0, "train.epochs": 3, "model.hidden": 8}
"""69 steps; lines for steps 10, 20, 23, 30, 40, 46, 50, 60, 69."""

Points = dict[str, list[tuple[int, float, int]]]


def train(path: Path, uri: str, *, resume: bool = False, **values: Any) -> distsgd.Result:
    dotted = {key.replace("__", "."): value for key, value in values.items()}
    return distsgd.train({**SHORT, "run.dir": str(path), "tracking.uri": uri} | dotted, resume=resume)


def command(*arguments: str, cwd: Path, timeout: float = 60, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `distsgd` as a user does."""
    done = subprocess.run(
        [sys.executable, "-m", "distsgd.cli", *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    done.stderr = without_notes(done.stderr)
    return done


def short_options(*more: str) -> list[str]:
    return [f"--set={key}={value}" for key, value in SHORT.items()] + [f"--set={text}" for text in more]


def journal_points(path: Path) -> Points:
    """Return (step, value, time) of every metric in the journal."""
    points: Points = defaultdict(list)
    for record in Reader(path / "metrics.jsonl").new():
        for key, value in record.items():
            if "/" in key:
                points[key].append((record["step"], value, record["timestamp_ms"]))
    return dict(points)


def stored_points(uri: str, run: Run) -> Points:
    """Return (step, value, time) of every metric in the store, as they are there, twice if they are there twice."""
    client = MlflowClient(uri)
    histories = {key: client.get_metric_history(run.info.run_id, key) for key in run.data.metrics}
    return {key: sorted((m.step, m.value, m.timestamp) for m in history) for key, history in histories.items()}


def with_best(points: Points) -> Points:
    """Return the points of a journal together with those of the best accuracy so far, which it does not hold."""
    best, found = 0.0, []
    for step, value, time in points.get("val/accuracy", []):
        best = max(best, value)
        found.append((step, best, time))
    return points | ({"best/val_accuracy": found} if found else {})


def only_run(uri: str, experiment: str = "distsgd") -> Run:
    """Return the one run that an experiment holds."""
    client = MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    (run,) = client.search_runs([found.experiment_id])
    return client.get_run(run.info.run_id)


def assert_complete(uri: str, path: Path, status: str = "FINISHED", experiment: str = "distsgd") -> Run:
    """Check that the store holds the one run of this directory, every point of its journal once, and its status."""
    run = only_run(uri, experiment)
    assert run.info.status == status
    assert stored_points(uri, run) == with_best(journal_points(path))
    assert json.loads((path / "mlflow.json").read_bytes())["run_id"] == run.info.run_id
    if status == "FINISHED":
        result = json.loads((path / "result.json").read_bytes())
        assert result["mlflow_run_id"] == run.info.run_id
        assert run.data.metrics["train/epoch_loss"] == result["train/loss"]
        assert run.data.metrics["val/loss"] == result["val/loss"]
        assert run.data.metrics["val/accuracy"] == result["val/accuracy"]
        assert run.data.tags["weights_sha256"] == result["weights_sha256"]
        assert len(run.outputs.model_outputs) == 1
    return run
