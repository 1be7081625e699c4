"""`distsgd sync` of a run directory in which something is missing, damaged, or a folder: one sentence, exit code 2."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
from runs import invoke
from tracking_helpers import assert_complete, train


@pytest.fixture(scope="module")
def _finished(tmp_path_factory) -> Path:
    """A run that was not tracked, and is not sent yet."""
    import distsgd

    path = tmp_path_factory.mktemp("finished") / "run"
    distsgd.train({"run.workers": 0, "train.max_steps": 3, "run.dir": str(path), "tracking.enabled": False})
    return path


@pytest.fixture
def run(own_folder, _finished) -> Path:
    shutil.copytree(_finished, own_folder / "run")
    return Path("run")


def folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def with_tracking(**changes: object):
    def change(run: Path) -> None:
        path = run / "tracking.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


DAMAGES = {
    "tracking.json is a folder": (lambda run: folder(run / "tracking.json"), "tracking.json' is a folder"),
    "tracking.json is missing": (lambda run: (run / "tracking.json").unlink(), "No such file"),
    "tracking.json holds nothing": (lambda run: (run / "tracking.json").write_text(""), "tracking.json"),
    "tracking.json holds {}": (lambda run: (run / "tracking.json").write_text("{}"), "uri: field required"),
    "tracking.json holds a list": (lambda run: (run / "tracking.json").write_text("[1]"), "tracking.json"),
    "tracking.json is binary": (lambda run: (run / "tracking.json").write_bytes(b"\xff\x00"), "tracking.json"),
    "a number for the name": (with_tracking(name=5), "name: "),
    "a text for the time": (with_tracking(began_ms="now"), "began_ms: "),
    "a list for the tags": (with_tracking(tags=["a"]), "tags: "),
    "numbers for parameters": (with_tracking(parameters={"optim.lr": 1}), "parameters.optim.lr: "),
    "datasets without digests": (with_tracking(datasets=[{"name": "x"}]), "datasets.0.context: "),
    "no run key": (with_tracking(tags={}), "distsgd.run_key"),
    "the journal is missing": (lambda run: (run / "metrics.jsonl").unlink(), "metrics.jsonl' cannot be read: No such"),
    "the journal is a folder": (lambda run: folder(run / "metrics.jsonl"), "metrics.jsonl' is a folder"),
    "mlflow.json is a folder": (lambda run: folder(run / "mlflow.json"), "mlflow.json' is a folder"),
    "result.json is a folder": (lambda run: folder(run / "result.json"), "result.json' is a folder"),
    "result.json is damaged": (lambda run: (run / "result.json").write_text("{"), "result.json' cannot be read"),
    "model.npz is a folder": (lambda run: folder(run / "model.npz"), "model.npz' is a folder"),
    "model.npz is missing": (lambda run: (run / "model.npz").unlink(), "its model.npz is missing"),
    "config.json is a folder": (lambda run: folder(run / "config.json"), "it has no config.json"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_a_damaged_run_directory_is_refused_in_a_sentence(run, case):
    damage, words = DAMAGES[case]
    damage(run)
    done = invoke("sync", "run")
    assert (done.code, done.out) == (2, ""), done.err
    (line,) = done.err.splitlines()
    assert line.startswith("distsgd: ")
    assert words in line
    assert not Path("mlflow.db").exists()


@pytest.mark.parametrize("path", ["x" * 300, "run/config.json"])
def test_a_path_that_is_no_directory_is_refused_in_a_sentence(run, path):
    done = invoke("sync", path)
    assert done.code == 2
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize("content", ["{", "{}", "[]", '{"run_id": 5, "experiment_id": "1", "uri": "x"}'])
def test_a_damaged_mlflow_json_is_made_anew(own_folder, empty_store, content):
    train(own_folder / "run", empty_store, train__max_steps=3)
    Path("run/mlflow.json").write_text(content)
    done = invoke("sync", "run")
    assert (done.code, done.err) == (0, "")
    assert_complete(empty_store, own_folder / "run")


@pytest.mark.timeout(60)
def test_a_database_that_is_down_is_not_waited_for_and_mlflow_keeps_its_own_retries(run):
    from mlflow.store.db import utils

    before, began = utils.MAX_RETRY_COUNT, time.monotonic()
    found = invoke("sync", "run", "--uri=postgresql+psycopg2://me:hidden@127.0.0.1:9/db")
    assert found.code == 1
    assert "Connection refused" in found.err
    assert "hidden" not in found.err
    assert time.monotonic() - began < 30, "mlflow itself tries for 100 seconds"
    assert before == utils.MAX_RETRY_COUNT


def test_two_connections_at_once_limit_the_attempts_until_the_last_is_made():
    from mlflow.store.db import utils

    from distsgd.tracking.store import _database_attempts

    before = utils.MAX_RETRY_COUNT
    with _database_attempts.limited():
        with _database_attempts.limited():
            assert before > utils.MAX_RETRY_COUNT
        assert before > utils.MAX_RETRY_COUNT
    assert before == utils.MAX_RETRY_COUNT
