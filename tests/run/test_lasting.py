"""The files of a Ray job's run must not be deleted with the job."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from runs import Outcome, invoke

from distsgd.config import Config
from distsgd.errors import ConfigError
from distsgd.run.ending import stopped_in_training
from distsgd.run.lasting import with_lasting_store
from distsgd.run.observer import Observer
from distsgd.system.jobs import VARIABLE, is_deleted_with_job

IN_JOB = json.dumps({"metadata": {"job_submission_id": "nightly"}})


class Notes(Observer):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def working_dir(tmp_path, monkeypatch) -> Path:
    """Where Ray copies the working directory of a job; it is the current folder."""
    copy = tmp_path / "session_2026-11-28_20-00-00_1_1" / "runtime_resources" / "working_dir_files" / "_ray_pkg_0123"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    monkeypatch.setenv(VARIABLE, IN_JOB)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return copy


def test_what_is_deleted_with_a_job(working_dir, tmp_path):
    (tmp_path / "link").symlink_to(working_dir)
    for path in (Path(), Path("runs/x"), working_dir, tmp_path / "link" / "runs"):
        assert is_deleted_with_job(path)
    for path in (tmp_path, Path("../../../x"), Path("/shared/working_dir_files"), tmp_path / "runtime_resources"):
        assert not is_deleted_with_job(path)


@pytest.mark.parametrize(
    "arguments", [[], ["--resume"], ["--run-dir", "runs/digits"], ["--run-dir", "./x", "--resume"]]
)
def test_a_run_directory_that_would_be_deleted_is_refused(working_dir, arguments):
    found = invoke("train", "--workers", "0", *arguments)
    assert (found.code, found.out) == (2, "")
    (line,) = found.err.splitlines()
    assert (
        "in the working directory of a Ray job, which is deleted with the job; name one on storage that stays" in line
    )
    assert "--run-dir /shared/runs/mine (run.dir)" in line
    assert list(working_dir.iterdir()) == []


def test_a_store_that_would_be_deleted_is_refused_if_it_was_named(working_dir, tmp_path):
    kept = tmp_path / "runs" / "digits"
    found = invoke("train", "--workers", "0", "--run-dir", str(kept), "--set", "tracking.uri=sqlite:///my.db")
    assert (found.code, found.out) == (2, "")
    assert "the MLflow store 'sqlite:///my.db' lies in the working directory of a Ray job" in found.err
    assert not kept.exists()


def test_the_default_store_is_moved_beside_the_run_directory(working_dir, tmp_path, monkeypatch):
    config, observer = Config.build({"run.dir": str(tmp_path / "runs" / "digits")}), Notes()
    assert with_lasting_store(config, observer).tracking.uri == f"sqlite:///{tmp_path}/runs/mlflow.db"
    (note,) = observer.notes
    assert note.startswith(f"MLflow store: sqlite:///{tmp_path}/runs/mlflow.db, because the working directory of a Ray")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert with_lasting_store(config, Notes()) == config
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///elsewhere.db")
    with pytest.raises(ConfigError, match=r"'sqlite:///elsewhere.db' lies in the working directory of a Ray job"):
        with_lasting_store(config, Notes())


@pytest.mark.parametrize("values", [{"tracking.enabled": False}, {"tracking.uri": "sqlite:////shared/mlflow.db"}])
def test_other_stores_stay_where_they_are(working_dir, values):
    config, observer = Config.build({"run.dir": "/shared/runs/x"} | values), Notes()
    assert with_lasting_store(config, observer) == config
    assert observer.notes == []


def test_outside_of_jobs_nothing_changes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert with_lasting_store(Config(), Notes()) == Config()


@pytest.mark.parametrize(
    ("script", "command"),
    [("jobs/train.py", "python jobs/train.py"), ("/opt/venv/bin/distsgd", "distsgd train")],
)
def test_the_hint_after_a_stop_is_the_command_that_one_would_type(working_dir, monkeypatch, script, command):
    monkeypatch.setattr(sys, "argv", [script, "jobs/digits.toml"])
    stopped = stopped_in_training(15, step=3, total_steps=9, run_dir=Path("/shared/my run"))
    hint = f"ray job submit --working-dir . -- {command} --resume --run-dir '/shared/my run'"
    assert str(stopped) == f"stopped by SIGTERM after step 3 of 9; continue with: {hint}"
    monkeypatch.delenv(VARIABLE)
    stopped = stopped_in_training(15, step=3, total_steps=9, run_dir=Path("run"))
    assert str(stopped).endswith("continue with: distsgd train --resume --run-dir run")


def test_more_workers_than_shards_is_one_sentence_with_what_to_type(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found: Outcome = invoke("train", "--workers", "8")
    assert found.code == 2
    assert found.err == (
        "distsgd: run.workers is 8, more than train.num_shards, 4; a worker without a shard has nothing to do: "
        "use run.workers=4, or train.num_shards=8 (which changes the result's last bits)\n"
    )
