"""ROC-AUC and weights in a run's figures: those of `distsgd evaluate` and scikit-learn; told where it is left out."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from runs import invoke, options
from sklearn import metrics as sk

import distsgd
from distsgd.cli.summary import summary
from distsgd.errors import ConfigError

QUICK = {"run.workers": 0, "tracking.enabled": False, "model.hidden": 8, "train.epochs": 4}

FIGURES = {
    "accuracy": "val_accuracy",
    "log_loss": "val_loss",
    "roc_auc": "val_roc_auc",
    "balanced_accuracy": "balanced_accuracy",
    "macro_f1": "macro_f1",
    "majority_share": "majority_share",
}
"""What evaluate calls the fields of a result."""


def table(rows: int = 500, classes: int = 3, seed: int = 1) -> pa.Table:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, 3)).astype(np.float32)
    label = (X[:, 0] + rng.normal(size=rows) > 0).astype(int)
    if classes > 2:
        label += X[:, 1] > 1
    weight = rng.choice([0.0, 0.5, 1.0, 8.0], rows)
    return pa.table({"a": X[:, 0], "b": X[:, 1], "c": X[:, 2], "weight": weight, "label": label})


def trained(train: pa.Table, val: pa.Table, **values: object) -> distsgd.Result:
    pq.write_table(train, "train.parquet")
    pq.write_table(val, "val.parquet")
    paths = {"data.train": "train.parquet", "data.val": "val.parquet", "run.dir": "run"}
    return distsgd.train(QUICK | paths | {key.replace("__", "."): value for key, value in values.items()})


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_figures_of_a_run_are_those_of_evaluate_and_count_weights(classes, weighted, own_folder):
    how = {"data__weight": "weight"} if weighted else {"data__exclude": ["weight"]}
    found = trained(table(classes=classes), table(classes=classes, seed=2), train__class_weight="balanced", **how)
    measured = json.loads(invoke("evaluate", "run", "--data", "val.parquet", "--json").out)
    for name, field in FIGURES.items():
        assert getattr(found, field) == pytest.approx(measured[name], rel=1e-6), name
    assert found.recall == pytest.approx({name: row["recall"] for name, row in measured["per_class"].items()})
    journal = [record["val/roc_auc"] for record in found.records if "val/loss" in record]
    assert len(journal) == 4
    macro = [record["val/macro_f1"] for record in found.records if "val/loss" in record]
    assert len(macro) == 4
    assert macro[-1] == found.val_macro_f1 == found.macro_f1
    assert journal[-1] == found.val_roc_auc == json.loads(Path("run/result.json").read_text())["val/roc_auc"]
    with open("run/per_class.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    counts = [measured["per_class"][line["class"]] for line in lines]
    assert [(int(line["rows"]), int(line["predicted"])) for line in lines] == [
        (row["rows"], row["predicted"]) for row in counts
    ]
    with open("run/confusion_matrix.csv", newline="") as file:
        matrix = [[float(cell) for cell in line[1:]] for line in list(csv.reader(file))[1:]]
    assert matrix == measured["confusion_matrix"]


def test_accuracy_and_confusion_of_a_weighted_run_are_those_of_scikit_learn(own_folder):
    val = table(seed=2)
    found = trained(table(), val, data__weight="weight")
    y, predicted = val["label"].to_numpy(), found.model.predict(val.select(["a", "b", "c"]))
    given = {"sample_weight": val["weight"].to_numpy()}
    assert found.val_accuracy == pytest.approx(sk.accuracy_score(y, predicted, **given))
    assert found.macro_f1 == pytest.approx(sk.f1_score(y, predicted, average="macro", **given))
    assert found.balanced_accuracy == pytest.approx(sk.balanced_accuracy_score(y, predicted, **given))


def test_whether_guessing_is_as_good_depends_on_the_weights(own_folder):
    """Without weights the most frequent class is a bad guess; with them it is nearly all there is."""
    rng = np.random.default_rng(0)
    label = np.arange(400) % 2
    rows = pa.table(
        {
            "a": label + 0.1 * rng.normal(size=400),
            "weight": np.where(label, 1e-4, 1.0),
            "label": np.where(rng.random(400) < 0.02, 1 - label, label),
        }
    )
    assert trained(rows, rows, data__exclude=["weight"], run__dir="one", optim__lr=0.5).remarks == []
    guessing, never = trained(rows, rows, data__weight="weight", run__dir="two", optim__lr=0.5).remarks
    assert "than guessing" in guessing
    assert "of the held-out rows, by their weights, are of class 0" in guessing
    assert "train.class_weight" in never


def test_weights_have_the_effect_of_repeated_rows_on_a_whole_run(own_folder):
    """All rows in each mini-batch, normalised, with gaps that become means, in shards of unequal weight."""
    rng = np.random.default_rng(3)
    rows = table(120).set_column(3, "weight", pa.array(rng.integers(0, 4, 120)))
    values = rows["b"].to_numpy().copy()
    values[::7] = np.nan
    rows = rows.set_column(1, "b", pa.array(values))
    repeated = rows.take(np.repeat(np.arange(120), rows["weight"].to_numpy())).drop(["weight"])
    how = {"train__batch_size": 1000, "train__epochs": 30, "train__num_shards": 7, "data__missing": "mean"}
    weighted = trained(rows, rows, data__weight="weight", run__dir="weighted", **how)
    several = trained(repeated, repeated, run__dir="repeated", **how)
    models = [run.model.predictor for run in (weighted, several)]
    for name in ("shift", "scale", "flat"):
        ours, theirs = (getattr(model, name) for model in models)
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5, err_msg=name)
    for field in FIGURES.values():
        assert getattr(weighted, field) == pytest.approx(getattr(several, field), rel=1e-4), field


EARLY = {"train__early_stopping": 2, "train__stopping_metric": "roc_auc", "train__epochs": 60, "optim__lr": 0.5}


def test_early_stopping_goes_by_roc_auc(own_folder):
    found = trained(table(), table(seed=2), data__exclude=["weight"], **EARLY)
    values = [record["val/roc_auc"] for record in found.records if "val/roc_auc" in record]
    assert found.val_roc_auc == max(values)
    assert len(values) < 60
    assert str(found.ended).startswith("no gain in val/roc_auc for 2 validations")


def test_where_roc_auc_is_not_defined_it_is_left_out_and_that_is_said(own_folder):
    train, val = table(), table(seed=2)
    val = val.filter(pa.array(val["label"].to_numpy() != 2))
    pq.write_table(train, "train.parquet")
    pq.write_table(val, "val.parquet")
    paths = {"data.train": "train.parquet", "data.val": "val.parquet", "data.exclude": '["weight"]'}
    found = invoke("train", *options(QUICK, paths, {"run.dir": "run", "tracking.enabled": "false"}))
    assert found.code == 0, found.err
    assert "val/roc_auc is left out: the held-out rows have no row of class '2'" in found.err
    assert "val/roc_auc" not in json.loads(Path("run/result.json").read_text())
    with pytest.raises(ConfigError, match=r"'roc_auc', which is not defined: the held-out rows have no row of class"):
        trained(train, val, data__exclude=["weight"], run__dir="other", **EARLY)
    with pytest.raises(ConfigError, match=r"'roc_auc', which is not measured with model\.loss=hinge"):
        trained(train, val, model__loss="hinge", **EARLY)


def test_labels_have_the_mean_of_their_areas(own_folder):
    def labelled(seed: int) -> pa.Table:
        rows = table(classes=2, seed=seed).drop(["weight"]).rename_columns(["a", "b", "c", "warm"])
        return rows.append_column("wet", pa.array((rows["b"].to_numpy() > 1).astype(int)))

    val = labelled(2)
    found = trained(labelled(1), val, data__label=["warm", "wet"], model__loss="logistic")
    p = found.model.predict_proba(val.select(["a", "b", "c"]))
    y = np.stack([val["warm"].to_numpy(), val["wet"].to_numpy()], axis=1)
    assert found.val_roc_auc == pytest.approx(sk.roc_auc_score(y, p), abs=1e-9)
    assert found.val_macro_f1 == pytest.approx(sk.f1_score(y, p > 0.5, average="macro"))
    assert "val macro-F1" in dict(summary(found))


def test_early_stopping_goes_by_macro_f1_of_labels_where_rows_have_some(own_folder):
    rows = table(classes=2).drop(["weight"]).rename_columns(["a", "b", "c", "warm"])
    rows = rows.append_column("wet", pa.array((rows["b"].to_numpy() > 1).astype(int)))
    how = {**EARLY, "train__stopping_metric": "macro_f1", "data__label": ["warm", "wet"], "model__loss": "logistic"}
    found = trained(rows, rows, **how)
    assert found.val_macro_f1 == max(record["val/macro_f1"] for record in found.records if "val/loss" in record)
    bare = rows.filter(pa.array((rows["warm"].to_numpy() == 0) & (rows["wet"].to_numpy() == 0)))
    with pytest.raises(ConfigError, match="'macro_f1', which is not defined: no held-out row has any of the labels"):
        trained(rows, bare, **how, run__dir="other")
