"""MLflow on a real SQLite file: what a run leaves there, resumptions, crashes, and what never happens without it."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from runs import slow_but_for, without_notes
from tracking_helpers import (
    SHORT,
    MlflowClient,
    assert_complete,
    command,
    journal_points,
    only_run,
    short_options,
    stored_points,
    train,
)

import distsgd
from distsgd.errors import Stopped, TrainingError
from distsgd.tracking import naming
from distsgd.tracking.sync import sync

pytestmark = pytest.mark.usefixtures("own_folder")


@pytest.fixture
def uri(empty_store) -> str:
    return empty_store


def test_a_run_is_recorded_whole(tmp_path, uri):
    result = train(tmp_path / "first", uri, optim__momentum=0.9, run__workers=0)
    assert result.warnings == []
    run = assert_complete(uri, tmp_path / "first")
    assert result.mlflow_run_id == run.info.run_id
    assert run.info.run_name == "hidden=8 momentum=0.9 epochs=3"
    assert set(run.data.metrics) == {
        *("train/loss", "train/epoch_loss", "train/lr", "val/loss", "val/accuracy", "val/macro_f1", "val/roc_auc"),
        *("time/step_ms", "time/samples_per_s", "best/val_accuracy"),
    }
    wanted = {
        "model.hidden": "8",
        "optim.momentum": "0.9",
        "train.epochs": "3",
        "run.workers": "0",
        "run.device": "cpu",
    }
    assert run.data.params == wanted
    artifacts = Path(run.info.artifact_uri.removeprefix("file://"))
    assert json.loads((artifacts / "config.json").read_bytes())["optim"]["lr"] == 0.1
    config = json.loads(Path("first/config.json").read_bytes())["distsgd"]
    assert run.data.tags["distsgd.run_key"] == config["run_key"]
    assert run.data.tags["data_digest"] == config["data_digest"]
    assert run.data.tags["distsgd.version"] == distsgd.__version__


def test_the_rows_are_recorded_as_datasets(tmp_path, uri):
    train(tmp_path / "run", uri)
    digest = json.loads(Path("run/config.json").read_bytes())["distsgd"]["data_digest"]
    inputs = only_run(uri).inputs.dataset_inputs
    contexts = {item.tags[0].value: item.dataset for item in inputs}
    assert set(contexts) == {"training", "validation"}
    rows = {context: json.loads(dataset.profile)["num_rows"] for context, dataset in contexts.items()}
    assert rows == {"training": 1438, "validation": 359}
    assert all(digest.startswith(dataset.digest) for dataset in contexts.values())
    features = json.loads(json.loads(contexts["training"].schema)["mlflow_tensorspec"]["features"])
    assert features[0]["tensor-spec"] == {"dtype": "uint8", "shape": [-1, 64]}


@pytest.mark.slow
def test_the_learning_curve_is_a_picture_beside_the_database(tmp_path, uri):
    train(tmp_path / "elsewhere" / "run", f"sqlite:///{tmp_path / 'store' / 'm.db'}")
    run = only_run(f"sqlite:///{tmp_path / 'store' / 'm.db'}")
    assert run.info.artifact_uri.startswith((tmp_path / "store").as_uri())
    (picture,) = (tmp_path / "store").rglob("learning_curve.svg")
    drawn = picture.read_text()
    assert all(f'id="{key}"' in drawn for key in ("train/loss", "val/loss", "val/accuracy"))
    assert not (tmp_path / "mlruns").exists()


def test_the_description_shows_the_figures_and_the_curves(tmp_path, uri):
    result = train(tmp_path / "run", uri)
    run = only_run(uri)
    shown = run.data.tags["mlflow.note.content"]
    assert f"| **Validation accuracy {result.val_accuracy:.4f}**<br>guessing: 0.1198, val loss" in shown
    assert "<br>64-8-10 net (610 parameters)<br>on 1,438 and 359 held-out rows | ![" in shown
    assert f"](get-artifact?path=curves.svg&run_uuid={run.info.run_id}) |" in shown
    assert [path.parent.name for path in tmp_path.rglob("curves.svg")] == ["artifacts"]
    assert run.data.tags["distsgd.command"].startswith("distsgd train --set model.hidden=8 --set train.epochs=3")


def test_accuracy_is_the_first_metric_and_so_what_mlflow_compares_runs_by(tmp_path, uri):
    train(tmp_path / "run", uri)
    logged = list(only_run(uri).data.metrics)
    assert logged[:3] == ["best/val_accuracy", "val/accuracy", "val/loss"]
    assert logged[-3:] == ["train/lr", "time/samples_per_s", "time/step_ms"]


def test_a_run_without_held_out_rows_is_described_in_words(tmp_path, uri):
    train(tmp_path / "run", uri, data__val_fraction=0)
    shown = only_run(uri).data.tags["mlflow.note.content"]
    assert re.match(r"\d+ steps, 3 epochs, in [\d.]+ s\n\n64-8-10 net ", shown)
    assert not list(tmp_path.rglob("curves.svg"))


def test_the_commit_and_the_ray_job_are_tags(tmp_path, uri, monkeypatch):
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    subprocess.run(["git", "init", "-q", "."], check=True)
    subprocess.run(["git", *identity, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    monkeypatch.setenv("RAY_JOB_SUBMISSION_ID", "raysubmit_7")
    train(tmp_path / "run", uri)
    tags = only_run(uri).data.tags
    assert (tags["mlflow.source.git.commit"], tags["ray_job_id"]) == (commit, "raysubmit_7")


def test_nothing_is_left_in_the_temporary_folder_but_mlflows_lock(tmp_path, uri):
    train(tmp_path / "run", uri)
    assert [path.name for path in (tmp_path / "tmp").iterdir() if not path.name.startswith("db_init_lock")] == []


def test_initial_weights_alone_are_a_run_too(tmp_path, uri):
    train(tmp_path / "run", uri, train__max_steps=0, data__val_fraction=0)
    run = only_run(uri)
    assert run.info.status == "FINISHED"
    assert len(run.outputs.model_outputs) == 1
    assert stored_points(uri, run) == journal_points(tmp_path / "run")


@pytest.mark.slow
def test_more_points_than_one_request_takes(tmp_path, uri):
    train(tmp_path / "run", uri, train__epochs=30, train__log_every=1, model__hidden=2)
    run = assert_complete(uri, tmp_path / "run")
    assert len(stored_points(uri, run)["train/loss"]) == 690


def stop_at(step: int, monkeypatch) -> None:
    """Send this process a SIGTERM when the run's journal reaches a step."""
    from distsgd.run.log import RunLog

    write = RunLog.write

    def write_and_stop(self, record):
        write(self, record)
        if record["step"] == step:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(RunLog, "write", write_and_stop)


@pytest.mark.slow
def test_a_stopped_run_is_killed_and_its_resumption_goes_on_in_the_same_mlflow_run(tmp_path, uri, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(46, patch)
        with pytest.raises(Stopped):
            train(tmp_path / "run", uri)
    stopped = assert_complete(uri, tmp_path / "run", "KILLED")
    assert max(step for step, *_ in stored_points(uri, stopped)["train/loss"]) == 46
    train(tmp_path / "run", uri, resume=True)
    resumed = assert_complete(uri, tmp_path / "run")
    assert resumed.info.run_id == stopped.info.run_id
    assert resumed.info.start_time == stopped.info.start_time
    train(tmp_path / "whole", f"sqlite:///{tmp_path / 'other.db'}")
    whole = journal_points(tmp_path / "whole")
    for key in ("train/loss", "train/epoch_loss", "train/lr", "val/loss", "val/accuracy"):
        assert [point[:2] for point in journal_points(tmp_path / "run")[key]] == [point[:2] for point in whole[key]]


def test_what_a_resumption_changes_becomes_a_tag(tmp_path, uri, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(23, patch)
        with pytest.raises(Stopped):
            train(tmp_path / "run", uri)
    train(tmp_path / "run", uri, resume=True, run__timeout_s=77.0)
    run = assert_complete(uri, tmp_path / "run")
    assert run.data.tags["resumed.run.timeout_s"] == "77.0"
    assert "run.timeout_s" not in run.data.params


def test_a_run_whose_parameters_have_the_bare_names_of_an_older_version_keeps_them(tmp_path, uri, monkeypatch):
    """Version 0.1 recorded `lr` for `optim.lr`."""

    def bare(config):
        sections = ("model.", "optim.", "train.", "run.")
        return {k.split(".", 1)[1] if k.startswith(sections) else k: str(v) for k, v in config.parameters().items()}

    with monkeypatch.context() as patch:
        patch.setattr(naming, "parameters", bare)
        stop_at(23, patch)
        with pytest.raises(Stopped):
            train(tmp_path / "run", uri)
    sync(tmp_path / "run")  # a stopped run does not wait long for MLflow
    before = only_run(uri).data.params
    train(tmp_path / "run", uri, resume=True, run__timeout_s=77.0)
    run = assert_complete(uri, tmp_path / "run")
    assert run.data.params == before
    assert (before["hidden"], before["lr"], "model.hidden" in before) == ("8", "0.1", False)
    assert run.data.tags["resumed.timeout_s"] == "77.0"


def test_a_failed_run_is_failed(tmp_path, uri):
    with pytest.raises(TrainingError):
        train(tmp_path / "run", uri, optim__lr=1e30)
    assert only_run(uri).info.status == "FAILED"
    assert json.loads(Path("run/result.json").read_bytes())["status"] == "FAILED"


KILLED_DRIVER = """
import os, signal, sys, threading
import distsgd
from distsgd.run import session
from distsgd.rundir import checkpoint
from distsgd.tracking.quiet import quiet_mlflow
with quiet_mlflow():
    from mlflow.tracking import MlflowClient

moment, arguments = sys.argv[1], eval(sys.argv[2])
end_epoch, log_batch, create_run = session.Session._end_epoch, MlflowClient.log_batch, MlflowClient.create_run
epochs = []

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

def hold_in_the_third_epoch(self):
    epochs.append(1)
    if len(epochs) == 3:
        threading.Event().wait(60)  # until killed
    return end_epoch(self)

def log(self, run_id, metrics=(), params=(), tags=()):
    if not metrics or moment == "created":
        return log_batch(self, run_id, metrics=metrics, params=params, tags=tags)
    if moment == "half":
        log_batch(self, run_id, metrics=metrics[: len(metrics) // 2])
    if moment == "after":
        log_batch(self, run_id, metrics=metrics)
    kill()

def create(self, *args, **kwargs):
    run = create_run(self, *args, **kwargs)
    if moment == "created":
        kill()
    return run

session.Session._end_epoch, MlflowClient.log_batch, MlflowClient.create_run = hold_in_the_third_epoch, log, create
distsgd.train(arguments)
"""


@pytest.mark.parametrize("moment", slow_but_for(["created", "before", "half", "after"]))
def test_a_driver_killed_while_it_talks_to_mlflow_leaves_no_gap_and_no_double_point(tmp_path, uri, moment):
    arguments = SHORT | {"run.dir": str(tmp_path / "run"), "tracking.uri": uri, "checkpoint.every_s": 1000.0}
    killed = subprocess.run([sys.executable, "-c", KILLED_DRIVER, moment, repr(arguments)], timeout=100, check=False)
    assert killed.returncode == -signal.SIGKILL
    before = only_run(uri)
    assert before.info.status == "RUNNING"
    some = stored_points(uri, before)
    assert bool(some) == (moment in ("half", "after"))
    # All checkpoints but the first are gone as well, so that steps are computed again that MLflow has already.
    # The second may not have been written yet; then steps after the first one are computed again in any case.
    for newer in sorted((tmp_path / "run" / "checkpoints").glob("*.json"))[1:]:
        newer.unlink()
    result = train(tmp_path / "run", uri, resume=True)
    assert result.warnings == []
    after = assert_complete(uri, tmp_path / "run")
    assert after.info.run_id == before.info.run_id
    for key, points in some.items():
        assert set(points) <= set(stored_points(uri, after)[key])


@pytest.mark.slow
def test_sync_of_a_run_whose_driver_was_killed_then_resumed(tmp_path, uri):
    arguments = SHORT | {"run.dir": str(tmp_path / "run"), "tracking.uri": uri}
    subprocess.run([sys.executable, "-c", KILLED_DRIVER, "half", repr(arguments)], timeout=100, check=False)
    synced = sync(tmp_path / "run")
    assert synced.status == "FAILED"
    assert_complete(uri, tmp_path / "run", "FAILED")
    train(tmp_path / "run", uri, resume=True)
    assert_complete(uri, tmp_path / "run")


def test_a_resumption_that_computes_other_losses_says_so_and_keeps_the_first(tmp_path, uri, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(46, patch)
        with pytest.raises(Stopped):
            train(tmp_path / "run", uri)
    for path in sorted((tmp_path / "run" / "checkpoints").glob("*.json"))[1:]:
        path.unlink()
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    changed = [line | ({"train/loss": 7.5} if line["step"] == 40 else {}) for line in lines]
    Path("run/metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in changed))
    result = train(tmp_path / "run", uri, resume=True)
    (warning,) = result.warnings
    assert "step 40 was computed again" in warning
    assert "7.5" in warning
    (kept,) = [value for step, value, _ in journal_points(tmp_path / "run")["train/loss"] if step == 40]
    assert kept == 7.5


@pytest.mark.slow
def test_sync_fills_another_store_as_well(tmp_path, uri):
    result = train(tmp_path / "run", uri)
    other = f"sqlite:///{tmp_path / 'other.db'}"
    synced = sync(tmp_path / "run", other)
    assert synced.run_id != result.mlflow_run_id
    assert_complete(other, tmp_path / "run")


def test_a_run_that_was_deleted_in_mlflow_is_not_created_anew(tmp_path, uri):
    result = train(tmp_path / "run", uri)
    MlflowClient(uri).delete_run(result.mlflow_run_id)
    with pytest.raises(distsgd.DistsgdError, match="was deleted there; `mlflow runs restore` brings it back"):
        sync(tmp_path / "run")


def test_without_tracking_mlflow_is_not_even_imported(tmp_path):
    code = "import sys; from distsgd.cli import main; main(standalone_mode=False); print('mlflow' in sys.modules)"
    options = ["train", "--run-dir", "run", *short_options("tracking.enabled=false")]
    done = subprocess.run(
        [sys.executable, "-c", code, *options], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == "False"
    assert "MLflow" not in done.stdout
    assert not (tmp_path / "mlflow.db").exists()
    assert json.loads(Path("run/result.json").read_bytes())["mlflow_run_id"] is None


def test_the_default_store_is_that_of_the_current_folder_at_any_time(tmp_path, store_template, monkeypatch, uri):
    """MLflow keeps its connections to databases by URI, and the default one is relative."""
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        shutil.copy(store_template, "mlflow.db")
        distsgd.train(SHORT | {"run.dir": "run"})
        assert_complete(f"sqlite:///{tmp_path / name / 'mlflow.db'}", tmp_path / name / "run")


def test_sync_tells_mlflow_of_a_run_that_was_not_tracked(tmp_path, uri):
    distsgd.train(SHORT | {"run.dir": "run", "tracking.enabled": False})
    synced = sync(Path("run"))
    assert synced.lines == 9
    assert synced.view == "distsgd ui run"
    assert_complete(uri, tmp_path / "run")


@pytest.mark.slow
def test_the_command_line_prints_the_ending_and_nothing_of_mlflows(tmp_path, uri):
    done = command("train", "--run-dir", "run", *short_options(), cwd=tmp_path)
    assert done.returncode == 0
    result = json.loads(Path("run/result.json").read_bytes())
    shown = dict(line.split("  ", 1) for line in done.stdout.splitlines())
    shown = {key.strip(): value.strip() for key, value in shown.items()}
    assert shown["status"] == "FINISHED"
    assert shown["trained"].startswith("69 steps, 3 epochs, in ")
    assert shown["train loss"] == f"{result['train/loss']:.4f} (mean of the last epoch)"
    assert shown["val accuracy"].startswith(f"{result['val/accuracy']:.4f} (guessing the most frequent class: 0.1")
    assert shown["model"] == "run/model.npz"
    assert shown["MLflow run"] == result["mlflow_run_id"]
    assert shown["view"] == "distsgd ui run"
    for line in without_notes(done.stderr).splitlines():
        assert line.startswith(("training 64-8-10", "epoch ")), line
    assert_complete(uri, tmp_path / "run")


@pytest.mark.slow
def test_quiet_prints_nothing(tmp_path, uri):
    done = command("train", "--quiet", "--run-dir", "run", *short_options(), cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.slow
def test_sync_on_the_command_line_can_be_repeated(tmp_path, uri):
    train(tmp_path / "run", uri)
    first = assert_complete(uri, tmp_path / "run")
    (tmp_path / "other").mkdir()
    for _ in range(2):
        done = command("sync", str(tmp_path / "run"), cwd=tmp_path / "other")
        assert (done.returncode, done.stderr) == (0, "")
        assert f"MLflow run {first.info.run_id} has all 9 lines of the journal, status FINISHED" in done.stdout
        again = assert_complete(uri, tmp_path / "run")
        assert (again.info.start_time, again.info.end_time) == (first.info.start_time, first.info.end_time)


def test_sync_refuses_a_folder_without_a_run(tmp_path):
    (tmp_path / "empty").mkdir()
    for path in ("empty", "missing"):
        done = command("sync", path, cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr.startswith(f"distsgd: no run is in '{path}'")
        assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "missing").exists()


def test_sync_refuses_a_directory_in_which_a_driver_is_at_work(tmp_path, uri):
    from distsgd.rundir import lock

    train(tmp_path / "run", uri)
    with lock.locked(tmp_path / "run"):
        done = command("sync", "run", cwd=tmp_path)
    assert done.returncode == 2
    assert "another driver is using" in done.stderr
