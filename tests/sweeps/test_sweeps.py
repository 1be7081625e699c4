"""Sweeps on a Ray cluster: what is trained, with which bits, what is left behind, and what MLflow has of it."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from pathlib import Path
from unittest import mock

import pytest
from browser import needs_browser, opened
from mlflow_server import mlflow_server
from runs import invoke

import distsgd
from distsgd.cluster.trial_pool import TrialPool
from distsgd.errors import ConfigError, RunDirectoryError, TrainingError
from distsgd.sweeps import rows as sweep_rows
from distsgd.sweeps import scheduler
from distsgd.sweeps.observer import SweepObserver
from distsgd.sweeps.options import SearchOptions
from distsgd.tracking import uri

SMALL = {"model.hidden": 8, "train.epochs": 3, "train.batch_size": 128}
ALONE = {**SMALL, "run.workers": 0, "tracking.enabled": False}
UNTRACKED = {**SMALL, "tracking.enabled": False}
DIVERGES = 1e20

pytestmark = [pytest.mark.usefixtures("ray"), pytest.mark.timeout(240)]
NO_ERRORS = ("AG Grid: since v27.1", "ResizeObserver loop completed")
"""What MLflow's own pages write to the console at any time: advice for their makers, and a layout in two passes."""
CORES = len(os.sched_getaffinity(0))


class Watcher(SweepObserver):
    def __init__(self):
        self.at_once, self.rows, self.changes, self.notes = 0, [], [], []

    def sweep_started(self, rows, *, at_once, path):
        self.rows, self.at_once = rows, at_once

    def trial_changed(self, row):
        self.changes.append((row.number, row.state))

    def note(self, text):
        self.notes.append(text)


@pytest.fixture(scope="module")
def ray():
    """A local Ray for all sweeps of this file."""
    with distsgd.session():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder to work in."""
    path = tmp_path_factory.mktemp("sweeps")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield path


@pytest.fixture(scope="module")
def swept(ray, folder):
    """A sweep of four trials, one of which diverges: its result, what was observed, and how often rows were read."""
    from distsgd.sweeps.sweep import sweep

    watcher = Watcher()
    with mock.patch.object(sweep_rows, "read_rows", wraps=sweep_rows.read_rows) as reading:
        found = sweep(
            UNTRACKED | {"run.workers": 0, "run.dir": "runs/swept"},
            SearchOptions(grid={"optim.lr": [0.05, 0.5, DIVERGES, 0.2]}),
            observer=watcher,
        )
    return found, watcher, reading.call_count


def listed(path) -> dict:
    return json.loads((Path(path) / "sweep.json").read_text())


def test_trials_run_several_at_a_time_on_rows_that_are_read_once(swept):
    _, watcher, reads = swept
    assert reads == 1
    assert watcher.at_once == min(4, CORES)
    assert [row.state for row in watcher.rows] == ["FINISHED", "FINISHED", "FAILED", "FINISHED"]
    assert {(number, "RUNNING") for number in (1, 2, 3, 4)} <= set(watcher.changes)


def test_the_file_lists_the_trials_which_are_run_directories(swept):
    found, *_ = swept
    content = listed(found.path)
    assert content["status"] == "FINISHED"
    assert [trial["parameters"] for trial in content["trials"]] == [
        {"optim.lr": lr} for lr in (0.05, 0.5, DIVERGES, 0.2)
    ]
    for trial in content["trials"]:
        stored = json.loads((Path(trial["run_dir"]) / "result.json").read_text())
        assert stored.items() >= trial["result"].items()
        assert stored.keys() - trial["result"].keys() == {"files", "sha256"}
        assert trial["state"] == stored["status"]
    assert "not finite" in content["trials"][2]["error"]
    distsgd.Classifier.load(content["trials"][0]["run_dir"])


def test_the_best_trial_is_named_with_the_command_that_gives_its_bits(swept):
    found, *_ = swept
    assert found.best.parameters == {"optim.lr": 0.5}
    assert listed(found.path)["best"] == found.best.number
    losses = [setting.mean(found.metric) for setting in found.settings]
    assert len(losses) == 3
    assert losses == sorted(losses)
    words = shlex.split(found.command)
    assert words[0] == "distsgd"
    again = invoke(*words[1:], "--run-dir", "runs/again", "--set", "tracking.enabled=false")
    assert again.code == 0, again.err
    result = json.loads(Path("runs/again/result.json").read_text())
    assert result["weights_sha256"] == found.best.result["weights_sha256"]


def test_concurrent_trials_have_the_bits_that_they_have_alone(swept):
    found, *_ = swept
    for trial in found.trials:
        if trial.state == "FINISHED":
            alone = distsgd.train(ALONE | trial.parameters | {"run.dir": f"runs/alone-{trial.number}"})
            assert alone.weights_sha256 == trial.result["weights_sha256"]
            assert alone.val_loss == trial.result["val/loss"]


@pytest.fixture(scope="module")
def tracked(ray, folder, store_template):
    """A sweep of three trials in MLflow, one of which diverges."""
    shutil.copy(store_template, folder / "mlflow.db")  # making one takes a while
    config = {"tracking.timeout_s": 60, "run.dir": "runs/tracked"}
    return distsgd.sweep(SMALL | config, grid={"optim.lr": [0.05, 0.5, DIVERGES]})


@pytest.mark.slow
def test_mlflow_has_a_parent_with_the_best_figures_and_a_child_for_each_trial(tracked, folder):
    from mlflow.tracking import MlflowClient

    found = tracked
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("distsgd").experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = {run.info.run_id: run for run in runs if run.info.run_id != parent.info.run_id}
    assert {run.data.tags["mlflow.parentRunId"] for run in children.values()} == {parent.info.run_id}
    assert {trial.result["mlflow_run_id"] for trial in found.trials} == set(children)
    assert sorted(run.info.status for run in children.values()) == ["FAILED", "FINISHED", "FINISHED"]
    best = children[found.best.result["mlflow_run_id"]]
    assert parent.info.status == "FINISHED"
    for key in ("val/loss", "val/accuracy"):
        assert parent.data.metrics[key] == pytest.approx(best.data.metrics[key])
    assert parent.data.tags["best.run_id"] == best.info.run_id
    assert parent.data.tags["best.optim.lr"] == "0.5"
    assert parent.data.params["sweep.optim.lr"] == "0.05, 0.5, 1e+20"
    assert parent.data.params["model.hidden"] == "8"
    assert "best val/loss" in parent.data.tags["mlflow.note.content"]
    assert [artifact.path for artifact in client.list_artifacts(parent.info.run_id)] == ["sweep.json"]
    assert {run.info.run_name for run in children.values()} == {"lr=0.05", "lr=0.5", "lr=1e+20"}


@pytest.mark.slow
@pytest.mark.timeout(200)
@needs_browser
def test_a_browser_shows_the_sweep_folded_up_with_its_best_figures_its_trials_and_their_curves(
    tracked, folder, tmp_path
):
    from mlflow.tracking import MlflowClient

    waiting = "--virtual-time-budget=30000"
    shutil.copy(folder / "mlflow.db", tmp_path / "server.db")
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    run = client.get_run(tracked.best.result["mlflow_run_id"])
    parent = client.get_run(run.data.tags["mlflow.parentRunId"])
    figures = {str(run.data.metrics["val/loss"]), str(run.data.metrics["val/accuracy"])}
    of_sweep = {parent.info.run_name, "sweep.optim.lr", "0.05, 0.5, 1e+20", "lr=0.05", "lr=0.5"} | figures
    of_curves = {"lr=0.5", "lr=0.5 (train/loss)", "lr=0.5 (val/loss)", "lr=0.5 (val/accuracy)"}
    with mlflow_server(tmp_path) as server:
        table_link = uri.table_link(server.uri, run.info.experiment_id)
        table = opened(table_link, tmp_path, waiting, wanted={parent.info.run_name})
        link = uri.run_link(server.uri, run.info.experiment_id, parent.info.run_id)
        page = opened(link, tmp_path, waiting, wanted=of_sweep)
        link = uri.run_link(server.uri, run.info.experiment_id, run.info.run_id)
        curves = opened(link.replace("?", "/model-metrics?"), tmp_path, waiting, height=3000, wanted=of_curves)
    console = [line for shown in (table, page, curves) for line in shown.console]
    assert not [line for line in console if not any(text in line for text in NO_ERRORS)]
    assert parent.info.run_name in table.words
    assert "lr=0.05" not in table.words, "the trials are below it"
    assert of_sweep <= set(page.words), "what was tried, the figures of the best trial, and the children"
    assert of_curves <= set(curves.words)
    assert curves.text.count('class="js-line"') >= len(of_curves), "lines of Plotly's"


@pytest.mark.slow
def test_a_finished_sweep_is_resumed_without_training_and_with_more_trials_trains_only_those(folder):
    ranges = {"random": {"optim.lr": "log:0.01:1"}, "seeds": 2}
    config = UNTRACKED | {"run.dir": "runs/random"}
    first = distsgd.sweep(config, trials=1, **ranges)
    assert [trial.parameters["train.seed"] for trial in first.trials] == [0, 1]
    before = {path: path.stat().st_mtime_ns for path in first.path.glob("trial-*/*") if path.name != ".lock"}
    assert {trial.parameters["optim.lr"] for trial in first.trials} == {first.best.parameters["optim.lr"]}
    distsgd.sweep({"run.dir": "runs/random"}, resume=True)
    more = distsgd.sweep(config, trials=2, resume=True, **ranges)
    assert len(more.trials) == 4
    assert more.trials[:2] == first.trials
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert all(setting.is_complete for setting in more.settings)
    with pytest.raises(ConfigError, match="varies other values; give those that it began with"):
        distsgd.sweep(config, trials=2, random={"optim.lr": "log:0.01:2"}, seeds=2, resume=True)
    with pytest.raises(ConfigError, match=r"train\.epochs was 3 and is 4"):
        distsgd.sweep({"run.dir": "runs/random", "train.epochs": 4}, resume=True)
    with pytest.raises(RunDirectoryError, match="is not empty"):
        distsgd.sweep(config, trials=2, **ranges)


@pytest.mark.slow
def test_rows_in_memory_are_shared_and_other_rows_are_refused_on_resuming(folder):
    from sklearn.datasets import load_iris

    X, y = load_iris(return_X_y=True)
    config = {**UNTRACKED, "train.batch_size": 16, "run.dir": "runs/memory"}
    ranges = {"optim.lr": "log:0.05:0.2"}
    found = distsgd.sweep(config, random=ranges, trials=1, data=(X, y))
    assert found.result.model.predict(X[:3]).tolist() == [0, 0, 0]
    with pytest.raises(RunDirectoryError, match="not those that the sweep in 'runs/memory' began with"):
        distsgd.sweep(config, random=ranges, trials=2, data=(X[1:], y[1:]), resume=True)


@pytest.mark.slow
def test_values_of_data_keys_are_read_once_each(folder):
    with mock.patch.object(sweep_rows, "read_rows", wraps=sweep_rows.read_rows) as reading:
        found = distsgd.sweep(
            UNTRACKED | {"run.dir": "runs/data"},
            grid={"data.normalize": ["unit", "standard"], "optim.lr": [0.1, 0.2]},
        )
    assert reading.call_count == 2
    for trial in found.trials:
        alone = distsgd.train(ALONE | trial.parameters | {"run.dir": f"runs/data-alone-{trial.number}"})
        assert alone.weights_sha256 == trial.result["weights_sha256"]


@pytest.mark.slow
def test_trials_with_workers_have_the_bits_of_the_serial_loop(folder):
    watcher = Watcher()
    from distsgd.sweeps.sweep import sweep

    config = UNTRACKED | {"run.dir": "runs/workers", "run.workers": 2}
    found = sweep(config, SearchOptions(grid={"optim.lr": [0.1, 0.2, 0.3]}), observer=watcher)
    assert watcher.at_once == max(1, CORES // 2)
    for trial in found.trials:
        alone = distsgd.train(ALONE | trial.parameters | {"run.dir": f"runs/workers-alone-{trial.number}"})
        assert alone.weights_sha256 == trial.result["weights_sha256"]


@pytest.mark.slow
def test_hopeless_trials_are_pruned_and_can_be_looked_at(folder, monkeypatch):
    import ray

    monkeypatch.setattr(scheduler, "POLL_S", 0.01)  # the trials are short
    rates = [0.5, 0.4, 0.3, 0.45, 0.35, 1e-7, 2e-7]
    killed, tell = [], TrialPool.tell

    def kill_at_first(pool, member, method, number, *arguments):
        if killed:
            tell(pool, member, method, number, *arguments)
        else:
            killed.append(number)
            ray.kill(member.actor)

    monkeypatch.setattr(TrialPool, "tell", kill_at_first)
    config = UNTRACKED | {"run.dir": "runs/pruned", "train.epochs": 60, "run.threads": CORES}
    found = distsgd.sweep(config, grid={"optim.lr": rates}, prune=True)
    assert [trial.state for trial in found.trials] == ["FINISHED"] * 5 + ["PRUNED"] * 2
    assert found.trials[5].result["status"] == "KILLED"
    assert found.trials[5].result["epochs"] < 60
    assert killed == [6], "its process was lost before it had ended, and another one ended it"
    assert list(Path(found.trials[5].run_dir, "checkpoints").iterdir())


@pytest.mark.slow
def test_a_sweep_that_has_no_place_says_what_a_trial_needs(folder, monkeypatch):
    import ray

    from distsgd.sweeps.sweep import sweep

    class Other:
        def ready(self):
            pass

    class Freeing(Watcher):
        def note(self, text):
            super().note(text)
            ray.kill(other)

    other = ray.remote(Other).options(num_cpus=CORES).remote()
    ray.get(other.ready.remote())
    monkeypatch.setattr(scheduler, "PLACELESS_S", 1.0)
    watcher = Freeing()
    config = UNTRACKED | {"run.dir": "runs/placeless", "train.max_steps": 1, "run.threads": 1}
    found = sweep(config, SearchOptions(grid={"optim.lr": [0.1]}), observer=watcher)
    assert [trial.state for trial in found.trials] == ["FINISHED"]
    (note,) = watcher.notes
    assert f"one needs 1 CPU of one node, and Ray has {CORES} CPU" in note
    assert ", of which in all 0 CPUs are free" in note


@pytest.mark.slow
def test_tpe_learns_from_the_settings_before(folder):
    config = UNTRACKED | {"run.dir": "runs/tpe", "train.epochs": 1, "run.threads": CORES}
    found = distsgd.sweep(config, random={"optim.lr": "log:0.001:1"}, trials=3, search="tpe")
    assert [trial.state for trial in found.trials] == ["FINISHED"] * 3


@pytest.mark.slow
def test_the_command_prints_the_settings_and_the_best_trial(folder):
    arguments = ["--set=model.hidden=4", "--set=train.max_steps=3", "--set=tracking.enabled=false"]
    found = invoke("sweep", *arguments, "--grid", "optim.lr=0.1,0.2", "--run-dir", "runs/printed")
    assert found.code == 0, found.err
    lines = found.out.splitlines()
    assert lines[0].startswith(" 1.  val/loss ")
    assert lines[-2].startswith("best  trial ")
    assert lines[-1].startswith("again distsgd train ")
    assert "trial 2/2  optim.lr=0.2  FINISHED  epoch" in found.err
    quiet = invoke("sweep", *arguments, "--grid", "optim.lr=0.1", "--quiet")
    assert not quiet.err
    (default,) = Path("runs").glob("sweep-digits-*")
    assert listed(default)["trials"][0]["state"] == "FINISHED"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "something to vary"),
        (("--grid", "optim.lr"), "--grid takes KEY="),
        (("--grid", "optim.lr=fast"), "optim.lr is 'fast'"),
        (("--grid", "optim.rate=1,2"), "unknown configuration key"),
        (("--random", "optim.l2=log:1e-6:1e-2"), "--trials says how many"),
        (("--grid", "optim.lr=1", "--set", "data.val_fraction=0"), "there are none: set data.val"),
        (("--grid", "optim.lr=1", "--set", "tracking.parent=mine"), "a parent of their own"),
        (("--grid", "optim.lr=1", "--set", "run.threads=64"), "a trial needs 64 CPUs"),
        (("--resume",), "no sweep to resume in 'runs/refused'"),
    ],
)
def test_what_cannot_be_swept_is_refused_before_anything_starts(arguments, message, folder):
    found = invoke("sweep", *arguments, "--run-dir", "runs/refused")
    assert found.code == 2
    assert message in found.err
    assert found.err.count("\n") == 1
    assert not Path("runs/refused").exists()


@pytest.mark.slow
def test_if_all_trials_fail_the_sweep_has_failed(folder):
    """The last test of this file: a failed run ends the Ray of a session."""
    config = UNTRACKED | {"run.dir": "runs/failed"}
    with pytest.raises(TrainingError, match=r"all 2 trials failed; trial 1: .*not finite"):
        distsgd.sweep(config, grid={"optim.lr": [DIVERGES, 2 * DIVERGES]})
    assert listed("runs/failed")["status"] == "FAILED"
    again = invoke("sweep", "--resume", "--run-dir", "runs/failed")
    assert again.code == 1
    assert "all 2 trials failed" in again.err
