"""Runs are the same whether they are read from their directories, from a database or from a server."""

from __future__ import annotations

import json
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mlflow_server import mlflow_server
from runs import invoke
from tracking_helpers import MlflowClient, train

import distsgd
from distsgd.compare.runs import METRICS
from distsgd.compare.sources import find_runs
from distsgd.errors import ConfigError


def train_four(folder: Path, **values: object) -> Path:
    """Train two learning rates with two seeds each, into a folder's `runs`."""
    for lr in (0.05, 0.2):
        for seed in (0, 1):
            uri = f"sqlite:///{folder / 'mlflow.db'}"
            train(folder / "runs" / f"lr{lr}-{seed}", uri, optim__lr=lr, train__seed=seed, **values)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with four runs that MLflow knows nothing of."""
    return train_four(tmp_path_factory.mktemp("trained"), tracking__enabled=False)


@pytest.fixture(scope="module")
def tracked(tmp_path_factory, store_template) -> Path:
    """A folder with four runs, and the store that has them, too."""
    folder = tmp_path_factory.mktemp("tracked")
    shutil.copy(store_template, folder / "mlflow.db")
    return train_four(folder)


@pytest.fixture
def in_trained(trained, store_template, monkeypatch) -> Path:
    """The folder of the runs is the current one; the store there has no experiment of theirs."""
    shutil.copy(store_template, trained / "mlflow.db")
    monkeypatch.chdir(trained)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return trained


@pytest.fixture
def in_tracked(tracked, monkeypatch) -> Path:
    monkeypatch.chdir(tracked)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tracked


def comparison(*arguments: str) -> dict:
    found = invoke("compare", "--json", *arguments)
    assert found.code == 0, found.err
    return json.loads(found.out)


def without_source(found: dict) -> dict:
    """Return a comparison without what names where runs were read from, and without rounded seconds."""
    for run in found["runs"]:
        del run["source"]
    for setting in found["settings"]:
        del setting["runs"]
    found["runs"].sort(key=lambda run: run["name"])
    return found


@pytest.mark.slow
def test_folder_and_experiment_give_the_same_comparison(in_tracked):
    folder, experiment = without_source(comparison("runs")), without_source(comparison("distsgd"))
    assert folder == experiment
    assert folder == without_source(comparison())
    assert list(folder["differing"]) == ["optim.lr", "train.seed"]
    assert [setting["summary"]["count"] for setting in folder["settings"]] == [2, 2]
    (contrast,) = folder["comparisons"]
    assert contrast["effect_of"] == "optim.lr"
    assert len(contrast["paired"]["differences"]) == 2


@pytest.mark.slow
def test_a_folder_without_runs_does_not_hide_the_experiment_of_its_name(in_tracked):
    Path("distsgd").mkdir()
    assert len(comparison()["runs"]) == len(comparison("distsgd")["runs"]) == 4
    Path("distsgd").rmdir()


@pytest.mark.slow
def test_run_directories_and_ids_may_be_mixed_and_count_once(in_tracked):
    ids = [run.source for run in find_runs(["distsgd"], None, [])]
    assert len(ids) == 4
    assert without_source(comparison(*ids)) == without_source(comparison("distsgd"))
    assert len(comparison("runs", *ids)["runs"]) == 4


def test_two_runs_share_all_but_the_learning_rate_and_part_at_the_first_logged_step(in_trained):
    found = comparison("runs/lr0.05-0", "runs/lr0.2-0")["pair"]
    assert found["sentences"][0] == (
        "these two runs saw the same rows in the same order from the same weights; what differs is "
        "optim.lr (0.05 and 0.2)"
    )
    assert (found["parting"]["equal_until"], found["parting"]["differs_at"]) == (None, 10)
    same = comparison("runs/lr0.05-0", "runs/lr0.05-0")
    assert len(same["runs"]) == 1


@pytest.mark.slow
def test_what_is_read_is_what_mlflows_client_reads(in_tracked):
    client = MlflowClient(f"sqlite:///{in_tracked / 'mlflow.db'}")
    for run in find_runs(["distsgd"], None, []):
        there = client.get_run(run.source)
        assert there.info.run_name == run.name
        assert there.info.status == run.status
        assert there.data.tags["weights_sha256"] == run.weights_sha256
        for key in set(METRICS) & set(there.data.metrics):
            points = sorted((m.step, m.value, m.timestamp) for m in client.get_metric_history(run.source, key))
            curve = run.curves[key]
            assert list(zip(curve.steps, curve.values, curve.times, strict=True)) == points


@pytest.mark.slow
def test_a_store_is_read_whatever_its_folder_is_called_and_stays_as_it_is(tracked, tmp_path):
    folder = tmp_path / "a b&x=1#%41"
    folder.mkdir()
    file = Path(shutil.copy(tracked / "mlflow.db", folder))
    os.chmod(file, 0o444)
    content = file.read_bytes()
    found = find_runs(["distsgd"], f"sqlite:///{file}", [])
    assert [run.rows for run in found] == [1438] * 4
    assert file.read_bytes() == content
    assert sorted(os.listdir(folder)) == ["mlflow.db"]


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_server_gives_the_same_comparison(in_tracked, tmp_path):
    with mlflow_server(tmp_path) as server:
        for path in sorted(Path("runs").iterdir()):
            shutil.copytree(path, tmp_path / path.name)
            (tmp_path / path.name / "mlflow.json").unlink()
            assert invoke("sync", str(tmp_path / path.name), f"--uri={server.uri}").code == 0
        there = without_source(comparison(f"--uri={server.uri}"))
        assert there == without_source(comparison("distsgd"))
        one = find_runs(["distsgd"], server.uri, [])[0].source
        assert len(comparison(one, f"--uri={server.uri}")["runs"]) == 1
        assert invoke("compare", "nothing", f"--uri={server.uri}").code == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["Defalt"], "(did you mean 'Default'?)"),
        (["0" * 32], "has no run '000"),
        (["runs", "--metric=val/acc"], "--metric is 'val/acc' (did you mean 'val/accuracy'?)"),
        (["runs", "--uri=sqlite:///none.db", "x"], "there is no MLflow store at"),
        (["runs/lr0.05-0/checkpoints"], "is neither a run directory, nor a folder that holds some, nor an experiment"),
        (["runs", "--html=/none/page.html"], "cannot be written: No such file or directory"),
    ],
)
def test_what_names_nothing_is_refused(in_trained, arguments, words):
    found = invoke("compare", *arguments)
    assert found.code == 2, found
    assert words in found.err
    assert found.out == ""


def test_a_damaged_run_directory_is_left_out_of_a_folder_and_named(in_trained, tmp_path):
    shutil.copytree("runs", tmp_path / "runs")
    (tmp_path / "runs" / "lr0.2-1" / "metrics.jsonl").write_text("{\n")
    found = comparison(str(tmp_path / "runs"))
    assert len(found["runs"]) == 3
    assert any("lr0.2-1' is left out: line 1 of the journal" in note for note in found["notes"])


def test_the_terminal_shows_the_table_the_comparison_and_what_differs(in_trained):
    found = invoke("compare", "runs")
    assert found.code == 0, found.err
    lines = found.out.splitlines()
    assert lines[0].split() == ["differs", "values"]
    assert any(line.split()[:3] == ["optim.lr", "0.05,", "0.2"] for line in lines)
    assert any("val/accuracy" in line and "95 % interval" in line for line in lines)
    assert "sorted by val/accuracy of the weights that each run keeps; --metric NAME changes that" in lines
    assert "2 pairs cannot come to p < 0.05" in found.out
    assert "an interval of 2 seeds covers at most 50% in place of 95%" in found.out


def test_trials_of_a_sweep_are_sorted_by_the_metric_of_the_sweep(in_trained, tmp_path):
    shutil.copytree("runs", tmp_path / "runs")
    (tmp_path / "runs" / "sweep.json").write_text("{}")  # what makes the folder that of a sweep
    assert comparison(str(tmp_path / "runs"))["metric"] == "val/loss"
    assert comparison("runs")["metric"] == "val/accuracy"


MANY = {"optim__lr": 0.2, "model__hidden": 8, "train__batch_size": 32, "optim__l2": 0.5, "optim__momentum": 0.75}


@pytest.mark.parametrize("width", [80, None])
def test_no_number_of_the_table_is_cut(capsys, monkeypatch, width):
    """On a terminal parameters are left out instead; elsewhere the table is as wide as it has to be."""
    from made_up import made_up
    from rich import console

    from distsgd.cli.compare import _print
    from distsgd.compare.comparison import compare

    if width is not None:
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setattr(console.Console, "is_terminal", True)
    more = {
        "optim__clip_norm": 0.125,
        "optim__warmup_steps": 1000,
        "train__label_smoothing": 0.25,
        "train__num_shards": 8,
    }
    runs = [made_up(0.9 + seed / 1000, seed=seed) for seed in range(2)]
    _print(compare([*runs, *(made_up(0.8, seed=seed, **MANY, **more) for seed in range(2))]))
    shown = capsys.readouterr().out
    assert "0.9005" in shown
    assert "0.9000 to 0.9010" in shown
    assert "…" not in shown.partition("against")[0]
    assert ("for lack of room without " in shown) == (width is not None)


def test_names_of_runs_cannot_control_the_terminal(capsys):
    from made_up import made_up

    from distsgd.cli.compare import _print
    from distsgd.compare.comparison import compare

    evil = "\x1b]0;title\x07\x1b[2J"
    runs = [made_up(0.9, optim__lr=0.1, model__hidden=8), made_up(0.8, optim__lr=0.2), made_up(status=f"A{evil}")]
    _print(compare([*runs, made_up(0.7, parameters={"optim.lr": 0.3, f"x{evil}": f"y{evil}"})]))
    shown = capsys.readouterr().out
    assert r"\x1b[2J" in shown
    assert not [letter for letter in shown if not letter.isprintable() and letter != "\n"]


# Many runs


def fill(path: Path, runs: int, points: int) -> None:
    """Write runs into a store as distsgd has them, by SQL: MLflow's client would take minutes."""
    with sqlite3.connect(path) as store:
        store.execute(
            "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage, creation_time, "
            "last_update_time) VALUES (7, 'many', '/nowhere', 'active', 0, 0)"
        )
        rng = np.random.default_rng(0)
        for number in range(runs):
            run, lr, seed = f"{number:032x}", 0.01 * 1.3 ** (number // 10), number % 10
            store.execute(
                "INSERT INTO runs (run_uuid, name, source_type, status, start_time, end_time, lifecycle_stage, "
                "artifact_uri, experiment_id, user_id, source_name, entry_point_name, source_version, deleted_time) "
                "VALUES (?, ?, 'LOCAL', 'FINISHED', ?, ?, 'active', '', 7, '', '', '', '', NULL)",
                (run, f"lr={lr:.3g} seed={seed}", number, number + 1),
            )
            params = {"optim.lr": repr(lr), "train.seed": str(seed), "run.workers": "2", "run.device": "cpu"}
            tags = {"distsgd.run_key": run, "data_digest": "d", "distsgd.version": "0.1.0", "weights_sha256": run}
            store.executemany("INSERT INTO params VALUES (?, ?, ?)", [(k, v, run) for k, v in params.items()])
            store.executemany("INSERT INTO tags VALUES (?, ?, ?)", [(k, v, run) for k, v in tags.items()])
            noise = rng.normal(0, 0.01, points)
            for key in ("train/loss", "train/lr", "val/loss", "val/accuracy"):
                steps = range(10, 10 * points + 1, 10) if key[0] == "t" else range(100, 10 * points + 1, 100)
                values = [(key, 1 / (1 + lr * s) + noise[s // 10 - 1], 10 * s, s, run, 0) for s in steps]
                store.executemany(
                    "INSERT INTO metrics (key, value, timestamp, step, run_uuid, is_nan) VALUES (?, ?, ?, ?, ?, ?)",
                    values,
                )


@pytest.mark.slow
@pytest.mark.timeout(110)
def test_two_hundred_runs_of_a_thousand_points_take_less_than_five_seconds(empty_store):
    """Of processor time, which does not depend on what else the machine does."""
    fill(Path("mlflow.db"), 200, 1000)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "distsgd.cli", "compare", "many", "--json"],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = json.loads(done.stdout)
    assert (len(found["runs"]), len(found["settings"]), len(found["comparisons"])) == (200, 20, 19)
    assert found["settings"][0]["summary"]["count"] == 10
    seconds = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    assert seconds < 5, seconds


def test_a_name_that_is_empty_is_not_the_current_folder(own_folder):
    """As of a variable of a shell that is not set."""
    with pytest.raises(ConfigError, match="there is no MLflow store at"):
        find_runs([""], None, [])


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_a_page_does_not_take_the_place_of_what_is_no_file(own_folder, kind):
    """Such as /dev/null, which the administrator would lose."""
    distsgd.train({"tracking.enabled": False, "run.dir": "mine", "run.workers": 0, "train.max_steps": 1})
    path = own_folder / "page"
    path.mkdir() if kind == "folder" else os.mkfifo(path)
    found = invoke("compare", "mine", "--html", "page")
    assert (found.code, "'page' is there and no file; name another one" in found.err) == (2, True), found
    assert not path.is_file()
