"""Sweeps that are killed, stopped, or lose the process of a trial: what goes on, and what is not repeated."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from runs import Cli, eventually, finished, options

import distsgd
from distsgd.system.faults import VARIABLE, Fault

SMALL = {"model.hidden": 8, "train.epochs": 200, "run.workers": 0}
RATES = (0.05, 0.1, 0.2, 0.3)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]


def command(**values) -> list[str]:
    rates = ",".join(map(str, RATES))
    return ["sweep", "--grid", f"optim.lr={rates}", "--run-dir", "mine", *options(SMALL, {"run.threads": 1}, values)]


def listed(folder: Path) -> list[dict]:
    try:
        return json.loads((folder / "mine" / "sweep.json").read_text())["trials"]
    except FileNotFoundError:
        return []


def states(folder: Path) -> list[str]:
    return [trial["state"] for trial in listed(folder)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> list[str]:
    """The weights of each trial when it is trained alone."""
    folder = tmp_path_factory.mktemp("alone")
    config = SMALL | {"tracking.enabled": False}
    runs = [distsgd.train(config | {"optim.lr": lr, "run.dir": str(folder / str(lr))}) for lr in RATES]
    return [str(run.weights_sha256) for run in runs]


def hashes(folder: Path) -> list[str]:
    return [trial["result"]["weights_sha256"] for trial in listed(folder)]


def faults(folder: Path, *found: Fault) -> dict[str, str]:
    file = folder / "faults.json"
    file.write_text(json.dumps([vars(fault) for fault in found]))
    return {VARIABLE: str(file)}


def test_after_a_kill_the_same_command_repeats_no_finished_trial(tmp_path, alone):
    cli = Cli(tmp_path)
    untracked = {"tracking.enabled": "false"}
    running = cli.start(*command(**untracked))
    assert eventually(lambda: states(tmp_path).count("FINISHED") >= 2 and "RUNNING" in states(tmp_path))
    running.send_signal(signal.SIGKILL)
    running.communicate()
    assert not cli.await_end()
    before = listed(tmp_path)
    done = [trial for trial in before if trial["state"] == "FINISHED"]
    kept = {path: path.stat().st_mtime_ns for trial in done for path in Path(trial["run_dir"]).glob("*.*")}
    assert kept
    again = cli.run(*command(**untracked), "--resume")
    assert again.code == 0, again.err
    assert hashes(tmp_path) == alone
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert not cli.await_end()


def test_sigterm_stops_all_trials_and_resuming_goes_on(tmp_path, alone):
    from mlflow.tracking import MlflowClient

    cli = Cli(tmp_path)
    running = cli.start(*command())
    checkpoint = "mine/trial-00[12]/checkpoints/*.json"
    assert eventually(lambda: len({path.parent for path in tmp_path.glob(checkpoint)}) == 2)
    running.send_signal(signal.SIGTERM)
    ended = finished(running)
    assert ended.code == 143
    assert "continue with: distsgd sweep --resume --run-dir mine" in ended.err
    assert not cli.await_end()
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("distsgd").experiment_id

    def statuses() -> dict[str, str]:
        return {run.info.run_id: run.info.status for run in client.search_runs([experiment])}

    assert set(statuses().values()) <= {"KILLED", "FINISHED"}
    assert "KILLED" in statuses().values()
    assert "RUNNING" not in states(tmp_path)
    again = cli.run("sweep", "--resume", "--run-dir", "mine")
    assert again.code == 0, again.err
    assert hashes(tmp_path) == alone
    assert set(statuses().values()) == {"FINISHED"}
    assert len(statuses()) == 1 + len(RATES)


def test_a_trial_whose_process_dies_goes_on_in_another_one(tmp_path, alone):
    fault = Fault("driver", 0, 2000, "checkpointed")
    cli = Cli(tmp_path, faults(tmp_path, fault))
    ended = cli.run(*command(**{"tracking.enabled": "false"}))
    assert ended.code == 0, ended.err
    assert (tmp_path / "0.struck").exists()
    assert "it goes on from its checkpoint" in ended.err
    assert hashes(tmp_path) == alone
