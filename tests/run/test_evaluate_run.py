"""`distsgd evaluate`: the metrics are scikit-learn's, the files are there, and MLflow gets them on request."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from runs import invoke
from sklearn import metrics as sk

import distsgd
from distsgd.core.losses import LOSSES
from distsgd.run.metrics import expected_calibration_error, of_classes, reliability
from distsgd.rundir.evaluation_figures import image_shape

QUICK = {"run.workers": 0, "train.max_steps": 60}


def rows(count: int = 400, classes: int = 3, seed: int = 2) -> pa.Table:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 2)).astype(np.float32)
    label = np.clip(np.rint(x[:, 0] + 0.5 * rng.normal(size=count) + classes / 2 - 0.5), 0, classes - 1).astype(int)
    names = np.array(["low", "middle", "high"][:classes])
    return pa.table({"a": x[:, 0], "b": x[:, 1], "label": names[label], "w": rng.integers(0, 4, count)})


@pytest.fixture
def trained(own_folder) -> Path:
    pq.write_table(rows(), "train.parquet")
    values = {"data.train": "train.parquet", "data.exclude": ["w"], "run.dir": "run", "tracking.enabled": False}
    distsgd.train(QUICK | values)
    return Path("run")


def test_metrics_are_those_of_scikit_learn(trained):
    test = rows(seed=3)
    pq.write_table(test, "test.parquet")
    found = invoke("evaluate", "run", "--data", "test.parquet", "--json")
    assert found.code == 0, found.err
    measured = json.loads(found.out)
    model = distsgd.Classifier.load("run")
    frame = test.select(["a", "b"])
    y, predicted, p = test["label"].to_pylist(), model.predict(frame), model.predict_proba(frame).astype(np.float64)
    p /= p.sum(axis=1, keepdims=True)
    labels = model.classes.tolist()
    assert measured["rows"] == 400
    assert measured["accuracy"] == pytest.approx(sk.accuracy_score(y, predicted))
    assert measured["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(y, predicted))
    assert measured["macro_f1"] == pytest.approx(sk.f1_score(y, predicted, average="macro"))
    assert measured["log_loss"] == pytest.approx(sk.log_loss(y, p, labels=labels), rel=1e-5)
    assert measured["roc_auc"] == pytest.approx(sk.roc_auc_score(y, p, multi_class="ovr", labels=labels), rel=1e-5)
    assert measured["confusion_matrix"] == sk.confusion_matrix(y, predicted, labels=labels).tolist()
    report = sk.classification_report(y, predicted, output_dict=True)
    for label in labels:
        for name, key in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score"), ("rows", "support")):
            assert measured["per_class"][label][name] == pytest.approx(report[label][key])
    assert json.loads(Path("run/evaluation/evaluation.json").read_text()) == measured


@pytest.mark.parametrize(
    "words",
    [
        ["export", "run", "--format", "npz", "--out", "run/model.npz"],
        ["export", "run", "--format", "npz", "--out", "link/model.npz"],
        ["predict", "run", "--data", "train.parquet", "--out", "run/per_class.csv"],
        ["evaluate", "run", "--data", "train.parquet", "--out", "run"],
    ],
)
def test_no_command_replaces_a_file_of_a_run(words, trained):
    os.symlink("run", "link")
    before = {path.name: path.read_bytes() for path in trained.iterdir() if path.is_file()}
    found = invoke(*words)
    assert found.code == 2
    assert "--out would replace" in found.err
    assert "give another name or folder" in found.err
    assert {path.name: path.read_bytes() for path in trained.iterdir() if path.is_file()} == before
    assert invoke("export", "run", "--format", "npz", "--out", "run/exported.npz").code == 0


def test_the_files_of_an_evaluation(trained):
    found = invoke("evaluate", "run", "--data", "train.parquet", "--out", "there")
    assert found.code == 0, found.err
    assert sorted(os.listdir("there")) == [
        "calibration.svg",
        "confusion_matrix.svg",
        "evaluation.json",
        "per_class.csv",
    ]
    with open("there/per_class.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [line["class"] for line in table] == ["high", "low", "middle"]
    assert "accuracy" in found.out
    assert "middle" in found.out
    for name in ("calibration", "confusion_matrix"):
        assert Path(f"there/{name}.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize("hidden", [16, 0])
def test_weights_of_images_are_drawn(hidden, own_folder):
    distsgd.train(QUICK | {"model.hidden": hidden, "run.dir": "run", "tracking.enabled": False})
    assert invoke("evaluate", "run", "--data", "digits").code == 0
    assert Path("run/evaluation/weights.svg").stat().st_size > 1000


@pytest.mark.parametrize(
    ("features", "shape"),
    [(64, (8, 8, 1)), (784, (28, 28, 1)), (3072, (32, 32, 3)), (9, None), (128, None), (1024, (32, 32, 1))],
)
def test_the_shape_of_an_image_follows_from_its_size(features, shape):
    assert image_shape(features) == shape


def test_rows_count_as_their_weights_say(own_folder):
    table = rows()
    pq.write_table(table, "train.parquet")
    values = {"data.train": "train.parquet", "data.weight": "w", "run.dir": "run", "tracking.enabled": False}
    distsgd.train(QUICK | values)
    measured = json.loads(invoke("evaluate", "run", "--data", "train.parquet", "--json").out)
    repeated = table.take(np.repeat(np.arange(len(table)), table["w"].to_numpy())).drop(["w"])
    pq.write_table(repeated, "repeated.parquet")
    again = json.loads(invoke("evaluate", "run", "--data", "repeated.parquet", "--json").out)
    assert measured["rows"] == np.count_nonzero(table["w"])
    for name in ("accuracy", "log_loss", "macro_f1", "balanced_accuracy", "roc_auc", "ece", "majority_share"):
        assert measured[name] == pytest.approx(again[name], rel=1e-9), name


def test_what_is_undefined_is_none():
    p = np.array([[0.7, 0.2, 0.1], [0.2, 0.7, 0.1]], np.float32)
    found = of_classes(np.array([0, 1]), np.array([0, 1]), p, ["a", "b", "c"])
    assert found["roc_auc"] is None
    assert found["per_class"]["c"] == {"rows": 0, "predicted": 0, "precision": None, "recall": None, "f1": None}
    assert found["accuracy"] == found["macro_f1"] == found["balanced_accuracy"] == 1
    hinge = of_classes(np.array([0, 1]), np.array([0, 1]), None, ["a", "b", "c"])
    assert hinge["log_loss"] is hinge["ece"] is hinge["calibration"] is None
    assert not LOSSES["hinge"].has_probabilities


def test_calibration_of_probabilities_that_are_right():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.3, 1, 200_000)
    correct = rng.random(200_000) < confidence
    bins = reliability(correct, confidence)
    assert sum(b["rows"] for b in bins) == 200_000
    assert expected_calibration_error(bins) < 0.01
    assert expected_calibration_error(reliability(correct, np.minimum(1, confidence + 0.2))) > 0.1


def several(count: int = 300) -> pa.Table:
    """Rows with two labels and two numbers."""
    rng = np.random.default_rng(8)
    X = rng.normal(size=(count, 3)).astype(np.float32)
    noise = rng.normal(size=(count, 2))
    return pa.table(
        {
            **{f"x{i}": X[:, i] for i in range(3)},
            "warm": (X[:, 0] + noise[:, 0] > 0).astype(int),
            "wet": (X[:, 1] - X[:, 2] > 1).astype(int),
            "u": X[:, 0] * 2 + 0.3 * noise[:, 0],
            "v": X[:, 1] + 0.1 * noise[:, 1],
        }
    )


def evaluated(loss: str, labels: list[str], exclude: list[str]) -> tuple[dict, pa.Table, distsgd.Classifier]:
    table = several()
    pq.write_table(table, "rows.parquet")
    values = {"data.train": "rows.parquet", "data.label": labels, "data.exclude": exclude, "model.loss": loss}
    distsgd.train(QUICK | values | {"run.dir": "run", "tracking.enabled": False, "optim.lr": 0.05})
    found = invoke("evaluate", "run", "--data", "rows.parquet", "--json")
    assert found.code == 0, found.err
    return json.loads(found.out), table, distsgd.Classifier.load("run")


def test_metrics_of_several_labels(own_folder):
    measured, table, model = evaluated("logistic", ["warm", "wet"], ["u", "v"])
    X = table.select(["x0", "x1", "x2"])
    y = np.stack([table["warm"].to_numpy(), table["wet"].to_numpy()], axis=1)
    predicted, p = model.predict(X), model.predict_proba(X)
    assert measured["accuracy"] == pytest.approx(sk.accuracy_score(y, predicted))
    assert measured["label_accuracy"] == pytest.approx(1 - sk.hamming_loss(y, predicted))
    assert measured["macro_f1"] == pytest.approx(sk.f1_score(y, predicted, average="macro"))
    assert measured["roc_auc"] == pytest.approx(sk.roc_auc_score(y, p))
    assert measured["log_loss"] == pytest.approx(sum(sk.log_loss(y[:, k], p[:, k]) for k in range(2)), rel=1e-5)
    assert list(measured["per_class"]) == ["warm", "wet"]
    assert measured["per_class"]["wet"]["rows"] == y[:, 1].sum()


@pytest.mark.parametrize("labels", [["u", "v"], ["v"]])
def test_metrics_of_numbers(labels, own_folder):
    rest = [name for name in ("warm", "wet", "u", "v") if name not in labels]
    measured, table, model = evaluated("squared", labels, rest)
    y = np.stack([table[name].to_numpy() for name in labels], axis=1)
    predicted = model.predict(table.select(["x0", "x1", "x2"])).reshape(y.shape)
    assert measured["mse"] == pytest.approx(sk.mean_squared_error(y, predicted), rel=1e-6)
    assert measured["mae"] == pytest.approx(sk.mean_absolute_error(y, predicted), rel=1e-6)
    assert measured["r2"] == pytest.approx(sk.r2_score(y, predicted), rel=1e-6)
    assert list(measured["per_output"]) == labels
    found = invoke("evaluate", "run", "--data", "rows.parquet")
    assert found.code == 0, found.err
    assert "r2" in found.out
    assert sorted(os.listdir("run/evaluation")) == ["evaluation.json", "per_output.csv"]


def test_a_hinge_loss_has_no_probabilities(own_folder):
    measured, table, model = evaluated("hinge", ["warm"], ["wet", "u", "v"])
    predicted = model.predict(table.select(["x0", "x1", "x2"]))
    assert measured["accuracy"] == pytest.approx(sk.accuracy_score(table["warm"].to_numpy(), predicted))
    assert measured["log_loss"] is measured["ece"] is None
    assert not Path("run/evaluation/calibration.svg").exists()


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (several().drop(["wet"]), "no column 'wet' for the label"),
        (several().set_column(4, "wet", pa.array([2] * 300)), "2 in the label column 'wet'"),
        (several().set_column(4, "wet", pa.array(["a"] * 300)), "label column 'wet' is string"),
    ],
)
def test_labels_that_do_not_fit_are_refused(table, expected, own_folder):
    evaluated("logistic", ["warm", "wet"], ["u", "v"])
    pq.write_table(table, "other.parquet")
    found = invoke("evaluate", "run", "--data", "other.parquet")
    assert found.code == 2
    assert expected in found.err


MISFITS = {
    "no label": (rows().drop(["label"]), "no column 'label' for the label"),
    "a class that the model does not know": (
        rows(10).set_column(2, "label", pa.array(["low"] * 9 + ["huge"])),
        "row 9 (counted from 0): label 'huge' in column 'label' is not among the model's classes",
    ),
    "a column that is missing": (rows().drop(["a"]), "no column 'a'"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_rows_that_cannot_be_evaluated_are_refused(name, trained):
    table, expected = MISFITS[name]
    pq.write_table(table, "test.parquet")
    found = invoke("evaluate", "run", "--data", "test.parquet")
    assert found.code == 2
    assert expected in found.err
    assert not Path("run/evaluation").exists() or not os.listdir("run/evaluation")


@pytest.mark.slow
def test_an_evaluation_becomes_part_of_the_run_in_mlflow(empty_store):
    import mlflow

    result = distsgd.train(QUICK | {"run.dir": "run", "tracking.uri": empty_store})
    Path(".env").write_text("PASSWORD=s3cret")  # and what else lies in a folder that is given
    found = invoke("evaluate", "run", "--data", "digits", "--log", "--out", ".")
    assert found.code == 0, found.err
    assert str(result.mlflow_run_id) in found.out
    client = mlflow.MlflowClient(empty_store)
    run = client.get_run(str(result.mlflow_run_id))
    measured = json.loads(Path("evaluation.json").read_text())
    for name in ("accuracy", "log_loss", "roc_auc", "ece"):
        assert run.data.metrics[f"evaluate/{name}"] == pytest.approx(measured[name])
    assert run.info.status == "FINISHED"
    names = {file.path for file in client.list_artifacts(run.info.run_id, "evaluation")}
    expected = ("evaluation.json", "per_class.csv", "confusion_matrix.svg", "calibration.svg", "weights.svg")
    assert names == {f"evaluation/{name}" for name in expected}
    assert invoke("evaluate", "run", "--data", "digits", "--log").code == 0
    assert len(client.search_runs([run.info.experiment_id])) == 1


def test_rows_of_weight_0_may_lack_anything_and_files_are_private(own_folder):
    table = rows()
    pq.write_table(table, "train.parquet")
    values = {"data.train": "train.parquet", "data.weight": "w", "run.dir": "run", "tracking.enabled": False}
    distsgd.train(QUICK | values)
    w = table["w"].to_numpy()
    gaps = table.set_column(2, "label", pa.array(np.where(w > 0, table["label"].to_numpy(), None)))
    gaps = gaps.set_column(0, "a", pa.array(np.where(w > 0, table["a"].to_numpy(), np.nan).astype(np.float32)))
    pq.write_table(gaps, "gaps.parquet")
    found = invoke("evaluate", "run", "--data", "gaps.parquet", "--json")
    assert found.code == 0, found.err
    whole = json.loads(invoke("evaluate", "run", "--data", "train.parquet", "--json").out)
    assert json.loads(found.out) | {"data": ""} == whole | {"data": ""}
    assert {path.stat().st_mode & 0o777 for path in Path("run/evaluation").iterdir()} == {0o600}
    last = int(np.flatnonzero(w)[-1])
    labels = gaps["label"].to_pylist()
    labels[last] = None
    pq.write_table(gaps.set_column(2, "label", pa.array(labels)), "gaps.parquet")
    found = invoke("evaluate", "run", "--data", "gaps.parquet")
    assert found.code == 2
    assert f"row {last} (counted from 0): null in the label column 'label'" in found.err
    pq.write_table(table.set_column(3, "w", pa.array(np.zeros(400))), "none.parquet")
    assert "every weight in column 'w' is 0" in invoke("evaluate", "run", "--data", "none.parquet").err


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_a_column_of_weights_that_is_text_is_refused(form, own_folder):
    table = rows()
    pq.write_table(table, "train.parquet")
    values = {"data.train": "train.parquet", "data.weight": "w", "run.dir": "run", "tracking.enabled": False}
    distsgd.train(QUICK | values)
    table = table.set_column(3, "w", pa.array(["much"] * 400))
    if form == "csv":
        table.to_pandas().to_csv("rows.csv", index=False)
    else:
        pq.write_table(table, "rows.parquet")
    found = invoke("evaluate", "run", "--data", f"rows.{form}")
    assert found.code == 2
    assert "column 'w' is string, and weights are numbers" in found.err


def test_a_second_file_whose_labels_are_lists_is_refused(trained):
    os.mkdir("rows")
    pq.write_table(rows(), "rows/a.parquet")
    pq.write_table(rows().set_column(2, "label", pa.array([["low"]] * 400)), "rows/b.parquet")
    found = invoke("evaluate", "run", "--data", "rows")
    assert found.code == 2
    assert "b.parquet: label column 'label' is list<" in found.err
