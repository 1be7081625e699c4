"""Runs with every loss and with weights: one answer for any number of workers, figures that scikit-learn confirms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from runs import invoke, options
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, log_loss, mean_absolute_error, mean_squared_error, r2_score

import distsgd
from distsgd.errors import DataError

pytestmark = pytest.mark.usefixtures("own_folder")

BASE = {"model.hidden": 8, "train.epochs": 3, "train.num_shards": 5, "tracking.enabled": False, "run.workers": 0}

LOSSES: dict[str, dict[str, Any]] = {
    "squared": {"data.label": ["p", "q"], "model.loss": "squared", "optim.lr": 0.05},
    "logistic": {"data.label": ["u", "v", "c"], "model.loss": "logistic"},
    "hinge": {"data.label": "c", "model.loss": "hinge", "train.class_weight": "balanced"},
    "smoothed": {"data.label": "c", "train.label_smoothing": 0.2, "train.class_weight": {"0": 3}},
}

FEATURES = ["a", "b", "e"]


def frame(count: int = 403, seed: int = 0) -> pd.DataFrame:
    """Return rows with numbers p and q, labels u and v, a class c, and weights w of which some are 0."""
    rng = np.random.default_rng(seed)
    found = pd.DataFrame(rng.normal(size=(count, 3)), columns=FEATURES)
    found["p"] = found.a - 2 * found.b + rng.normal(0, 0.1, count)
    found["q"] = 5 + found.e * found.a
    found["u"], found["v"] = (found.a > 0).astype(int), found.b + rng.normal(0, 0.5, count) > 0.5
    found["c"] = (found.e + found.a + rng.normal(0, 0.5, count) > 0).astype(int)
    found["w"] = rng.choice([0, 0.5, 1, 7], count)
    return found


def values_of(loss: str, **more: Any) -> dict[str, Any]:
    return BASE | {"data.features": FEATURES, "data.weight": "w"} | LOSSES[loss] | more


@pytest.mark.usefixtures("joined")
@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
def test_any_number_of_workers_gives_the_same_weights_and_figures(loss):
    frame().to_parquet("rows.parquet")
    runs = [
        distsgd.train(values_of(loss, **{"data.train": "rows.parquet", "run.workers": n, "run.dir": f"{n}"}))
        for n in ((0, 2) if loss == "squared" else range(4))
    ]
    assert len({run.weights_sha256 for run in runs}) == 1
    figures = [{key: value for key, value in run.to_json().items() if key.startswith("val/")} for run in runs]
    assert figures[1:] == figures[:-1]
    assert figures[0]["val/loss"] > 0


def test_the_figures_of_numbers_are_those_of_scikit_learn():
    rows, held_out = frame(), frame(300, seed=1)
    result = distsgd.train(values_of("squared"), data=rows, val=held_out)
    kept = held_out[held_out.w > 0]
    y, predicted, w = kept[["p", "q"]], result.model.predict(kept[FEATURES]), kept.w
    assert predicted.shape == (len(kept), 2)
    assert result.val_mse == pytest.approx(mean_squared_error(y, predicted, sample_weight=w), rel=1e-5)
    assert result.val_mae == pytest.approx(mean_absolute_error(y, predicted, sample_weight=w), rel=1e-5)
    assert result.val_r2 == pytest.approx(r2_score(y, predicted, sample_weight=w), rel=1e-5)
    assert result.val_loss == pytest.approx(result.val_mse)  # half of the sum over two numbers
    assert result.val_accuracy is result.recall is None
    with pytest.raises(DataError, match=r"model\.loss=squared: it predicts numbers, and no probabilities"):
        result.model.predict_proba(kept[FEATURES])
    assert (Path(result.run_dir) / "model.npz").exists()
    assert not (Path(result.run_dir) / "per_class.csv").exists()
    assert result.model.classes.tolist() == ["p", "q"]


def test_the_figures_of_labels_are_those_of_scikit_learn():
    rows, held_out = frame(), frame(300, seed=1)
    result = distsgd.train(values_of("logistic"), data=rows, val=held_out)
    kept = held_out[held_out.w > 0]
    y, predicted, w = kept[["u", "v", "c"]].astype(int), result.model.predict(kept[FEATURES]), kept.w
    probabilities = result.model.predict_proba(kept[FEATURES])
    assert predicted.tolist() == (probabilities > 0.5).astype(int).tolist()
    assert result.val_accuracy == pytest.approx(accuracy_score(y, predicted, sample_weight=w), rel=1e-6)
    assert result.val_label_accuracy == pytest.approx(np.average((y == predicted).mean(axis=1), weights=w), rel=1e-6)
    losses = [log_loss(y[name], probabilities[:, i], sample_weight=w) for i, name in enumerate(y)]
    assert result.val_loss == pytest.approx(sum(losses), rel=1e-4)


def test_a_hinge_loss_gives_scores_and_a_smoothed_label_is_validated_as_it_is():
    rows = frame()
    hinge = distsgd.train(values_of("hinge"), data=rows)
    scores = hinge.model.decision_function(rows[FEATURES])
    assert hinge.model.predict(rows[FEATURES]).tolist() == scores.argmax(axis=1).tolist()
    with pytest.raises(DataError, match=r"model\.loss=hinge: it predicts classes by their scores"):
        hinge.model.predict_proba(rows[FEATURES])
    smoothed = distsgd.train(values_of("smoothed", **{"data.val": "val.parquet"}) | _written(rows))
    kept = rows[rows.w > 0]
    expected = log_loss(kept.c, smoothed.model.predict_proba(kept[FEATURES]), sample_weight=kept.w)
    assert smoothed.val_loss == pytest.approx(expected, rel=1e-4)


def _written(rows: pd.DataFrame) -> dict[str, str]:
    rows.to_parquet("train.parquet")
    rows.to_parquet("val.parquet")
    return {"data.train": "train.parquet"}


@pytest.mark.parametrize("loss", ["squared", "logistic", "hinge"])
def test_the_command_line_trains_and_predicts(loss):
    rows = frame()
    rows.to_parquet("rows.parquet")
    values = values_of(loss, **{"data.train": "rows.parquet", "run.dir": "run", "tracking.enabled": "false"})
    outcome = invoke("train", *options(values))
    assert outcome.code == 0, outcome.err
    assert {"squared": "val R²", "logistic": "label acc.", "hinge": "mean recall"}[loss] in outcome.out
    outcome = invoke("predict", "run", "--data", "rows.parquet", "--out", "out.parquet")
    assert outcome.code == 0, outcome.err
    found, model = pq.read_table("out.parquet").to_pydict(), distsgd.Classifier.load("run")
    assert list(found) == (["prediction", "probabilities"] if loss == "logistic" else ["prediction"])
    assert np.array_equal(found["prediction"], model.predict(rows[FEATURES]))


def test_one_layer_reaches_the_optimum_of_logistic_regression():
    """Strictly convex: with λ Σ W² in the mean loss, scikit-learn's C is 1 / (2 λ Σ w)."""
    rows, l2 = frame(), 1e-3
    values = values_of("smoothed") | {
        "model.hidden": 0,
        "train.label_smoothing": 0.0,
        "train.class_weight": "balanced",
        "train.batch_size": 1000,
        "train.epochs": 500,
        "train.log_every": 1000,
        "train.eval_every": 500,
        "data.normalize": "none",
        "data.val_fraction": 0,
        "optim.lr": 1.0,
        "optim.momentum": 0.9,
        "optim.l2": l2,
    }
    model = distsgd.train(values, data=rows).model
    kept = rows[rows.w > 0]
    totals = kept.groupby("c").w.sum()
    w = kept.w * (kept.w.sum() / (2 * totals))[kept.c].to_numpy()
    # Two columns of weights w and -w, as softmax has them, cost half of one column 2w: λ (w² + w²) = λ (2w)² / 2.
    reference = LogisticRegression(C=1 / (l2 * w.sum()), tol=1e-10, max_iter=10_000)
    reference.fit(kept[FEATURES], kept.c, sample_weight=w)
    found = log_loss(kept.c, model.predict_proba(kept[FEATURES]), sample_weight=w)
    assert found == pytest.approx(log_loss(kept.c, reference.predict_proba(kept[FEATURES]), sample_weight=w), abs=1e-3)
    assert np.abs(model.predict_proba(kept[FEATURES]) - reference.predict_proba(kept[FEATURES])).max() < 1e-3
