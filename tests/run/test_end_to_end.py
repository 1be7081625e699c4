"""What a user gets: the files, the numbers in them, what is printed, and the same from Python."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from runs import PATIENCE_S, QUICK, Cli, Outcome, invoke, journal, leaving_nothing, options, result

import distsgd
from distsgd.errors import DataError

RESULT = {
    "status": str,
    "weights_sha256": str,
    "steps": int,
    "epochs": float,
    "train/loss": float,
    "val/loss": float,
    "val/accuracy": float,
    "val/macro_f1": float,
    "val/roc_auc": float,
    "majority_share": float,
    "balanced_accuracy": float,
    "macro_f1": float,
    "recall": dict,
    "held_out_classes": int,
    "best_epoch": float,
    "best_val_loss": float,
    "ended": type(None),
    "wall_s": float,
    "samples_per_s": float,
    "step_ms_p50": float,
    "step_ms_p95": float,
    "mlflow_run_id": str,
    "arithmetic": str,
    "numerics": dict,
    "features": dict,
    "warnings": list,
    "remarks": list,
}

CONTRACT = {
    "config.json",
    "metrics.jsonl",
    "checkpoints",
    "model.npz",
    "result.json",
    "per_class.csv",
    "confusion_matrix.csv",
}

OURS = {".lock", "mlflow.json", "tracking.json", "proof.jsonl"}
"""What a run directory holds beside what users are promised."""

STEPS, EPOCH = 690, 23


def read_model(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def digest(arrays: dict[str, np.ndarray]) -> str:
    content = b"".join(np.ascontiguousarray(arrays[name], "<f4").tobytes() for name in ("W1", "b1", "W2", "b2"))
    return hashlib.sha256(content).hexdigest()


def digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    return load_digits(return_X_y=True)


# `distsgd train` and nothing else


@pytest.fixture(scope="module")
def default(tmp_path_factory) -> tuple[Path, Outcome]:
    """The folder in which `distsgd train` was run, and how that went; it has left nothing behind elsewhere."""
    folder = tmp_path_factory.mktemp("default")
    with leaving_nothing(folder) as cli:
        return folder, cli.run("train")


@pytest.fixture
def run_dir(default) -> Path:
    (path,) = (default[0] / "runs").iterdir()
    return path


@pytest.mark.timeout(240)
def test_the_default_run_learns_the_digits(default, run_dir):
    folder, found = default
    assert found.code == 0, found.err
    assert {path.name for path in folder.iterdir()} == {"home", "runs", "mlflow.db", "mlruns"}
    assert re.fullmatch(r"digits-\d{8}-\d{6}", run_dir.name)
    assert result(run_dir)["status"] == "FINISHED"
    assert result(run_dir)["val/accuracy"] >= 0.97


def test_the_run_directory_holds_what_is_promised(run_dir):
    names = {path.name for path in run_dir.iterdir()}
    assert names >= CONTRACT
    assert names <= CONTRACT | OURS
    assert len(list((run_dir / "checkpoints").iterdir())) == 2 * 3


def test_the_result_holds_what_is_promised(run_dir):
    found = result(run_dir)
    assert {key: type(value) for key, value in found.items()} == RESULT | {"files": dict, "sha256": str}
    assert (found["steps"], found["epochs"], found["warnings"]) == (STEPS, 30.0, [])
    assert found["weights_sha256"] == digest(read_model(run_dir / "model.npz"))
    assert found["step_ms_p50"] <= found["step_ms_p95"]
    assert found["features"] == {"used": ["pixels"], "left_out": {}}
    assert found["numerics"]["device"] in ("cpu", "cuda")
    assert found["numerics"]["blas_threads"] == "1"


def test_the_configuration_is_complete(run_dir):
    found = json.loads((run_dir / "config.json").read_text())
    about = found.pop("distsgd")
    assert distsgd.Config.build(found).flat() == distsgd.Config.build(about["requested"]).flat() | {
        "run.workers": found["run"]["workers"],
        "run.device": result(run_dir)["numerics"]["device"],
        "run.dir": f"runs/{run_dir.name}",
    }
    assert 1 <= found["run"]["workers"] <= 4
    assert about["version"] == distsgd.__version__


def test_the_journal_holds_what_is_promised(run_dir):
    records, found = journal(run_dir), result(run_dir)
    steps = [record["step"] for record in records]
    assert steps == sorted({*range(10, STEPS, 10), *range(EPOCH, STEPS + 1, EPOCH)})
    for record in records:
        assert record["epoch"] == record["step"] / EPOCH
        assert record["train/lr"] == 0.1
        assert {"train/loss", "time/step_ms", "time/samples_per_s", "timestamp_ms"} <= set(record)
        assert ("val/loss" in record) == ("val/accuracy" in record) == (record["step"] % EPOCH == 0)
    for key in ("val/loss", "val/accuracy"):  # the result's training loss is the mean of the last epoch
        assert records[-1][key] == found[key]


def test_the_model_is_plain_arrays_that_predict(run_dir):
    arrays = read_model(run_dir / "model.npz")
    shapes = {"W1": (64, 64), "b1": (64,), "W2": (64, 10), "b2": (10,)}
    assert {name: arrays[name].shape for name in shapes} == shapes
    assert {arrays[name].dtype for name in shapes} == {np.dtype("<f4")}
    assert set(arrays) == {*shapes, "classes", "shift", "scale", "activation", "loss", "format_version", "inputs"}
    X, y = digits()
    h = np.maximum(0, ((X - arrays["shift"]) * arrays["scale"]) @ arrays["W1"] + arrays["b1"])
    by_hand = arrays["classes"][(h @ arrays["W2"] + arrays["b2"]).argmax(axis=1)]
    model = distsgd.Classifier.load(run_dir / "model.npz")
    np.testing.assert_array_equal(model.predict(X), by_hand)
    assert (by_hand == y).mean() > 0.98


def test_mlflow_holds_the_run(default, run_dir):
    with contextlib.closing(sqlite3.connect(default[0] / "mlflow.db")) as store:
        runs = store.execute("select run_uuid, status from runs").fetchall()
        latest = dict(store.execute("select key, value from latest_metrics").fetchall())
    found = result(run_dir)
    assert runs == [(found["mlflow_run_id"], "FINISHED")]
    for key in ("val/loss", "val/accuracy"):
        assert latest[key] == found[key]


def test_what_is_printed_where_there_is_no_terminal(default, run_dir):
    found = default[1]
    lines = found.err.splitlines()
    opening, *lines = [line for line in lines if line.startswith(("training ", "epoch "))]
    assert opening.startswith("training 64-64-10 (4,810 parameters) on 1,438 and 359 held-out rows of digits, by ")
    assert re.search(r", by \d workers? on 1 node \(", opening)
    form = r"epoch (\d+)/30  step (\d+)/690  loss [\d.]+  val loss [\d.]+  val accuracy [\d.]+  [\d,]+ samples/s"
    found_steps = [re.fullmatch(form + r"(  \d:\d\d:\d\d left)?", line).groups() for line in lines]
    assert [(int(epoch), int(step)) for epoch, step, _ in found_steps] == [(n, EPOCH * n) for n in range(1, 31)]
    assert [left is None for _, _, left in found_steps] == [False] * 29 + [True]
    assert "\x1b" not in found.err + found.out
    table = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in found.out.splitlines())
    assert table["status"] == "FINISHED"
    assert table["model"] == f"runs/{run_dir.name}/model.npz"
    assert table["val accuracy"].split()[0] == f"{result(run_dir)['val/accuracy']:.4f}"
    assert table["MLflow run"] == result(run_dir)["mlflow_run_id"]
    assert table["view"] == f"distsgd ui runs/{run_dir.name}"


# What is printed


@pytest.mark.parametrize(
    ("columns", "shown_there"),
    [
        pytest.param(140, "epoch loss acc samples/s step", marks=pytest.mark.slow),
        (80, "epoch loss acc samples/s"),
        pytest.param(20, "", marks=pytest.mark.slow),
    ],
)
def test_a_progress_bar_on_a_terminal(own_folder, columns, shown_there):
    arguments = ["train", "--workers", "0", "--run-dir", "run", *options({"tracking.enabled": "false"})]
    ours, theirs = os.openpty()
    cli = Cli(own_folder, {"TERM": "xterm-256color", "COLUMNS": str(columns), "NO_COLOR": "1" if columns == 80 else ""})
    try:
        process = cli.start(*arguments, stderr=theirs, stdin=theirs)
    finally:
        os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # of a terminal that nobody holds the other end of
        while chunk := os.read(ours, 65536):
            shown += chunk
    os.close(ours)
    out, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert bool(re.search(r"\x1b\[[0-9;]*3[0-9]m", shown.decode())) == (columns != 80)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert "training 64-64-10 (4,810 parameters)" in " ".join(text.split())
    last = text.rstrip().splitlines()[-1]
    found = result(own_folder / "run")
    assert len(last) <= columns
    assert re.search(r"━{12,} 0:00:00", last), last
    fields = {
        "epoch": "epoch 30/30  ━",
        "loss": f"  loss {journal(own_folder / 'run')[-1]['train/loss']:.4f}",
        "acc": f"  val acc {found['val/accuracy']:.4f}",
        "samples/s": " samples/s",
        "step": f"  step {STEPS}/{STEPS}",
    }
    for name, field in fields.items():
        assert (field in last) == (name in shown_there.split()), (field, last)
    assert "FINISHED" in out


def test_quiet(own_folder):
    found = Cli(own_folder).run("train", "--quiet", "--workers", "0", *options(QUICK))
    assert found == Outcome(0, "", "")


def test_a_failure_is_told_even_when_quiet(own_folder):
    found = invoke("train", "--quiet", "--workers", "0", "--run-dir", "run", *options(QUICK, {"optim.lr": 1e30}))
    assert found.code == 1
    assert found.out == ""
    (line,) = found.err.splitlines()
    assert re.match(r"distsgd: step \d+: .* not finite", line)
    assert "newest checkpoint" in line
    assert result(Path("run"))["status"] == "FAILED"


# How long a run is


def test_held_out_rows_that_overflow_are_named_as_the_cause(own_folder):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 4)).astype(np.float32)
    np.savez("train.npz", X=X, y=np.arange(60) % 3)
    np.savez("val.npz", X=X * np.float32(1e37), y=np.arange(60) % 3)
    found = invoke("train", "--data=train.npz", "--val=val.npz", "--workers=0", "--run-dir=run", "--quiet",
                   *options(QUICK, {"data.normalize": "none", "train.max_steps": 4, "model.scale": 100}))  # fmt: skip
    assert found.code == 1
    assert "the validation loss after step 1 is not finite" in found.err
    assert "held-out rows" in found.err
    assert "not applied" not in found.err
    assert result(Path("run"))["status"] == "FAILED"


@pytest.mark.parametrize("workers", [0, pytest.param(2, id="on Ray", marks=pytest.mark.slow)])
@pytest.mark.parametrize("key", ["train.max_steps", "train.epochs"])
def test_no_steps_write_the_initial_weights(own_folder, joined, workers, key):
    found = distsgd.train({"run.workers": workers, key: 0, "run.dir": "run", "tracking.enabled": False})
    arrays = read_model(Path("run/model.npz"))
    assert (found.status, found.steps, found.epochs, found.train_loss) == ("FINISHED", 0, 0.0, None)
    assert found.weights_sha256 == digest(arrays)
    assert not arrays["b1"].any()
    assert not arrays["b2"].any()
    assert arrays["W1"].std() == pytest.approx(np.sqrt(2 / 64), rel=0.05)  # He-normal
    scaled = distsgd.train({"run.workers": 0, key: 0, "model.scale": 1e-2, "tracking.enabled": False, "run.dir": "s"})
    assert read_model(Path("s/model.npz"))["W2"].std() == pytest.approx(1e-2, rel=0.1)
    assert scaled.weights_sha256 != found.weights_sha256


def test_a_run_that_ends_within_an_epoch(own_folder):
    values = {"run.workers": 0, "train.max_steps": 33, "train.log_every": 7, "run.dir": "run"}
    found = distsgd.train(values | {"tracking.enabled": False})
    assert [record["step"] for record in journal(Path("run"))] == [7, 14, 21, 23, 28, 33]
    assert [record["step"] for record in journal(Path("run")) if "val/loss" in record] == [23, 33]
    assert (found.steps, found.epochs) == (33, 33 / EPOCH)


def test_no_held_out_rows(own_folder):
    values = {"run.workers": 0, "train.max_steps": 5, "data.val_fraction": 0, "tracking.enabled": False}
    found = distsgd.train(values | {"run.dir": "run"})
    assert found.val_loss is None
    assert found.val_accuracy is None
    assert set(journal(Path("run"))[-1]) & {"val/loss", "val/accuracy"} == set()
    assert result(Path("run"))["val/loss"] is None


# From Python


@pytest.mark.slow
def test_from_python(own_folder, joined):
    import ray

    X, y = digits()
    names = np.array([f"digit {label}" for label in range(10)])[y]
    pq.write_table(pa.table({"label": names.tolist(), **{f"p{i}": X[:, i] for i in range(64)}}), "digits.parquet")
    values: dict[str, Any] = {"data": {"train": "digits.parquet"}, "run.workers": 2, "train": {"epochs": 10}}
    found = distsgd.train({**values, "run.dir": "run", "tracking.enabled": False})
    assert ray.is_initialized()
    stored = result(Path("run"))
    for key in RESULT:
        assert getattr(found, key.replace("/", "_")) == stored[key], key
    assert isinstance(found, distsgd.Result)
    assert found.run_dir == own_folder / "run"
    assert found.val_accuracy > 0.95
    assert (found.model.predict(X) == names).mean() > 0.95
    proba = found.model.predict_proba(X[:7])
    assert proba.shape == (7, 10)
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-5)
    assert found.model.classes[proba.argmax(axis=1)].tolist() == found.model.predict(X[:7]).tolist()
    with pytest.raises(DataError, match=r"\(n, 64\)"):
        found.model.predict(X[:, :63])
    with pytest.raises(distsgd.DistsgdError, match=r"optim\.lr is 0"):
        distsgd.train({"optim.lr": 0})
    assert ray.get(ray.remote(lambda: 3).remote()) == 3


def test_from_a_thread_of_a_script(own_folder):
    """Where Python allows no signal handlers."""
    script = (
        "import threading, distsgd\n"
        "def work():\n"
        "    result = distsgd.train({'run.workers': 0, 'train.max_steps': 5, 'tracking.enabled': False})\n"
        "    print(result.status, result.steps)\n"
        "thread = threading.Thread(target=work)\n"
        "thread.start()\n"
        "thread.join()\n"
    )
    found = Cli(own_folder).run_python("-c", script)
    assert (found.out, found.code) == ("FINISHED 5\n", 0), found.err


# Every format


def write_folder(table: pa.Table) -> str:
    Path("parts").mkdir()
    pq.write_table(table.slice(0, 100), "parts/a.parquet")
    pq.write_table(table.slice(100), "parts/b.parquet")
    return "parts"


def write_arrow(table: pa.Table) -> str:
    with pa.ipc.new_file("rows.arrow", table.schema) as writer:
        writer.write_table(table)
    return "rows.arrow"


def write_npz(table: pa.Table) -> str:
    columns = [table.column(name).to_numpy() for name in table.column_names if name != "label"]
    np.savez("rows.npz", X=np.stack(columns, axis=1), y=np.array(table.column("label").to_pylist()))
    return "rows.npz"


def write_csv(table: pa.Table) -> str:
    pyarrow.csv.write_csv(table, "rows.csv")
    return "rows.csv"


@pytest.mark.parametrize("write", [write_folder, write_arrow, write_npz, write_csv])
def test_formats_with_string_labels(own_folder, write):
    X, y = digits()
    names = np.array(["even", "odd"])[y % 2]
    table = pa.table({**{f"p{i:02}": X[:, i] for i in range(64)}, "label": names.tolist()})
    found = invoke("train", "--data", write(table), "--run-dir", "run", "--workers", "0", *options(QUICK))
    assert found.code == 0, found.err
    assert result(Path("run"))["steps"] == 30
    model = distsgd.Classifier.load("run/model.npz")
    assert model.classes.tolist() == ["even", "odd"]
    assert (model.predict(X) == names).mean() > 0.8
    # The same rows give the same weights, whatever they came from.
    Path("again").mkdir()
    pq.write_table(table, "again/rows.parquet")
    assert (
        invoke("train", "--data", "again/rows.parquet", "--run-dir", "r2", "--workers", "0", *options(QUICK)).code == 0
    )
    assert result(Path("r2"))["weights_sha256"] == result(Path("run"))["weights_sha256"]
