"""The commands of docs/ray-cluster.md for a cluster of one's own, as they stand there, with ports that are free."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from mlflow_server import free_port

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_cluster_of_ones_own_is_started_used_and_ended():
    text = (REPOSITORY / "docs" / "ray-cluster.md").read_text()
    found = re.search(r"## A small cluster of your own.*?```sh\n(.*?)```", text, re.DOTALL)
    assert found is not None
    with tempfile.TemporaryDirectory(prefix="own", dir="/tmp") as name:
        folder = Path(name)
        script = found[1].replace("/tmp/my-ray", f"{folder}/r").replace("jobs/", f"{REPOSITORY}/jobs/")
        for port in ("6400", "8270", "52370"):
            script = script.replace(port, str(free_port()))
        script = script.replace("--num-cpus 4", "--num-cpus 1 --object-store-memory 100000000")
        script = script.replace(
            "--run-dir", "--workers 1 --set train.max_steps=5 --set tracking.enabled=false --run-dir"
        )
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_"))}
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
        # `wait` has the script end after the cluster, whose processes write to its folder until then.
        done = subprocess.run(
            ["bash", "-c", f"{script}\nwait"], cwd=folder, env=environment, capture_output=True, text=True, timeout=220
        )
        assert "status        FINISHED" in done.stdout, done.stdout + done.stderr
        assert (folder / "runs" / "mine" / "result.json").is_file()
        deadline = time.monotonic() + 20  # the last ones end when they miss their raylet
        while (left := _started_with(str(folder))) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert not left


def _started_with(word: str) -> list[str]:
    """Return the processes that have a word in their environment."""
    return [entry.name for entry in Path("/proc").iterdir() if entry.name.isdigit() and word in _environment(entry)]


def _environment(process: Path) -> str:
    try:
        return (process / "environ").read_bytes().decode(errors="replace")
    except OSError:  # it has ended, or is another user's
        return ""
