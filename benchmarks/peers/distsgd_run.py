"""distsgd itself: a run of `distsgd train`, with the timings of its own result.json.

The run is stopped with SIGTERM when it has trained for long enough. Its percentiles exclude the first second of steps.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.peers.common import L2, LR, Task, main

WARM_UP_S = 1.0
"""Seconds at the start that distsgd's own timings exclude."""

START_S = 120.0
LOOK_S = 0.05
STOPPED = 143


def command(task: Task, run_dir: Path) -> list[str]:
    """Return the command line of a run without tracking and without held-out rows."""
    settings: dict[str, object] = {
        "model.hidden": task.shape.hidden,
        "optim.lr": LR,
        "optim.l2": L2,
        "train.batch_size": task.shape.batch,
        "train.num_shards": task.num_shards,
        "train.epochs": 1_000_000,
        "data.label": "y",
        "data.features": "X",
        "data.val_fraction": 0,
        "data.normalize": "unit" if "uint8" in task.data.name else "none",
        "tracking.enabled": "false",
    }
    assignments = [f"--set={key}={value}" for key, value in settings.items()]
    assignments += [f"--set={override}" for override in task.overrides]
    program = [sys.executable, "-m", "distsgd.cli", "train", "--quiet", "--device", "cpu"]
    where = ["--data", str(task.data / "data.npz"), "--workers", str(task.workers), "--run-dir", str(run_dir)]
    return [*program, *assignments, *where]


def train(task: Task, run_dir: Path) -> dict[str, Any]:
    """Train for the requested time; return the content of result.json."""
    process = subprocess.Popen(command(task, run_dir), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        _wait_for_first_step(process, run_dir / "metrics.jsonl")
        time.sleep(max(WARM_UP_S, task.warm_up_s) + task.seconds)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=START_S)
    finally:
        process.kill()
    if process.returncode != STOPPED:
        raise RuntimeError(f"distsgd ended with exit code {process.returncode}:\n{output}")
    result: dict[str, Any] = json.loads((run_dir / "result.json").read_text())
    return result


def _wait_for_first_step(process: subprocess.Popen[str], journal: Path) -> None:
    deadline = time.monotonic() + START_S
    while not (journal.exists() and journal.stat().st_size):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise RuntimeError(f"distsgd took no step, exit code {process.poll()}:\n{process.communicate()[0]}")
        time.sleep(LOOK_S)


def measure(task: Task) -> dict[str, Any]:
    """Return the run's own percentiles, and its whole duration per step, including start and ends of epochs."""
    with tempfile.TemporaryDirectory(dir=task.data) as folder:
        result = train(task, Path(folder) / "run")
    return {
        "step_ms_p50": result["step_ms_p50"],
        "step_ms_p95": result["step_ms_p95"],
        "samples": result["steps"],
        "wall_ms_per_step": 1e3 * result["wall_s"] / result["steps"],
    }


if __name__ == "__main__":
    main(measure)
