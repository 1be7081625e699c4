"""The benchmarks of whole fits: their arithmetic, their sections of the page, and small fits of those that are here."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from runs import slow_but_for
from sklearn.datasets import load_digits

from benchmarks import comparison, estimator, tables
from benchmarks.report import markers

PAGE = Path(__file__).resolve().parent.parent / "docs" / "comparison.md"

FACTS = {"processor": "P", "cores": 2, "system": "S", "python": "3", "numpy": "2", "xgboost-cpu": "4", "blas": "B"}


def digits() -> tuple[np.ndarray, np.ndarray]:
    X, y = load_digits(return_X_y=True)
    return (X / 16).astype(np.float32), y.astype(np.int64)


def section(name: str) -> str:
    begin, end = markers(name)
    return PAGE.read_text(encoding="utf-8").partition(begin)[2].partition(end)[0]


def test_the_time_to_a_loss_is_that_of_the_first_epoch_that_reaches_it():
    assert estimator.epochs_to([3.0, 2.0, 1.0, 1.5], 2.0) == 2
    assert estimator.epochs_to([3.0, 1.0], 0.5 + 0.5) == 2
    assert estimator.ratio([2.0, 6.0, 9.0], [1.0, 2.0, 1.0]) == 3


def test_estimators_are_compared_at_equal_settings():
    X, y = digits()
    train, test = (X[:300], y[:300]), (X[300:400], y[300:400])
    case = estimator.Case(name="few", train=train, test=test, hidden=8, epochs=3, rounds=2)
    makers = estimator.makers(case, estimator.SOLVERS["Adam"], [0])
    ours, theirs = makers["DistSGDClassifier, workers=0"](3), makers["MLPClassifier"](3)
    same = theirs.get_params().keys() & ours.get_params().keys()
    assert {name: ours.get_params()[name] for name in same} == {name: theirs.get_params()[name] for name in same}
    with pytest.warns(UserWarning, match="converged"):
        rows = estimator.measure(case, makers)
    assert [row.estimator for row in rows] == list(makers)
    assert rows[0].to_loss_ratio == rows[0].all_ratio == 1
    assert max(row.epochs for row in rows) == 3
    assert all(row.to_loss_s > 0 and 0 < row.accuracy < 1 for row in rows)
    lines = estimator.markdown([estimator.cells("few, Adam", row) for row in rows], FACTS, "Quiet.").splitlines()
    assert lines[0] == "P, 2 cores, S; Python 3, numpy 2, xgboost-cpu 4; B. Quiet."
    assert {line.count("|") for line in lines[2:]} == {len(estimator.COLUMNS) + 1}


@pytest.mark.parametrize("name", slow_but_for(comparison.LABELS))
def test_a_contestant_is_fitted_in_a_process_of_its_own(name):
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed; pip install '.[bench]'")
    X, y = digits()
    rows = tables.Divided(X[:1200], X[:1200], y[:1200], X[1200:], X[1200:], y[1200:])
    case = comparison.Case(name="digits", rows=rows, hidden=32, epochs=60)
    assert case.title == "digits, 1,200 training and 597 test rows; nets 64-32-10, 60 epochs"
    found = comparison.measure(case, [name], 1, Console(file=io.StringIO()))
    (measured,) = found[name]
    assert measured["accuracy"] > 0.85
    assert 0 < measured["log_loss"] < 1
    assert measured["seconds"] > 0
    assert 20 < measured["before_mib"] <= measured["peak_mib"]
    lines = comparison.markdown({case.title: comparison.rows_of(found)}, FACTS, "Quiet.").splitlines()
    assert lines[-1].startswith(f"| {comparison.LABELS[name]} | {measured['accuracy']:.4f} | ")


def test_medians_of_the_rounds_are_shown():
    rounds = [
        {"accuracy": 0.5, "log_loss": 1.0, "seconds": s, "peak_mib": 100, "before_mib": 50} for s in (1.0, 9.0, 2.0)
    ]
    assert comparison.rows_of({"xgboost": rounds}) == [("XGBoost", "0.5000", "1.0000", "2", "100", "50")]


def test_images_are_read_from_parquet(tmp_path):
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for name in ("train", "test"):
        lists = pa.FixedSizeListArray.from_arrays(pa.array(pixels.ravel()), 4)
        pq.write_table(pa.table({"image": lists, "label": [2, 0, 1]}), tmp_path / f"{name}.parquet")
    rows = tables.images(tmp_path)
    np.testing.assert_array_equal(rows.train_nets, pixels / np.float32(255))
    assert rows.train_nets.dtype == np.float32
    assert rows.test_y.tolist() == [2, 0, 1]


def test_features_of_a_flight_are_known_before_it_leaves():
    flown = pd.DataFrame(
        {
            "year": 2013, "month": [1, 1, 7, 7] * 10, "day": 3, "hour": 5, "sched_dep_time": 517, "sched_arr_time": 830,
            "arr_delay": [16.0, 15.0, -4.0, np.nan] * 10, "dep_delay": 99.0, "carrier": ["UA", "AA"] * 20,
            "origin": "EWR", "dest": "IAH", "distance": 1400, "time_hour": ["a", "b"] * 20,
        }
    )  # fmt: skip
    hour = dict.fromkeys(("temp", "dewp", "humid", "wind_dir", "wind_speed", "precip", "pressure", "visib"), 1.5)
    rows = tables.divided_flights(flown, pd.DataFrame([{"origin": "EWR", "time_hour": "a", "month": 9, **hour}]))
    assert len(rows.train_y) + len(rows.test_y) == 30  # those that have not arrived are left out
    assert rows.train_y.mean() + rows.test_y.mean() > 0
    assert {*rows.train_y, *rows.test_y} == {0, 1}
    names = [*tables.CATEGORIES, *tables.NUMBERS]
    assert rows.train_trees.shape[1] == len(names)
    assert set(rows.train_trees[:, names.index("sched_dep_time")]) == {5 * 60 + 17}
    assert np.isnan(rows.train_trees[:, names.index("temp")]).any()  # trees take missing weather as it is
    assert 99 not in rows.train_trees
    assert not {"dep_delay", "arr_time", "arr_delay"} & set(names)


@pytest.mark.parametrize(("name", "columns"), [("comparison", comparison.COLUMNS), ("estimator", estimator.COLUMNS)])
def test_the_page_has_a_table_of_each_benchmark(name, columns):
    text = section(name)
    assert "| " + " | ".join(columns) + " |" in text
    assert " cores, " in text


def test_the_page_compares_all_contestants():
    text = section("comparison")
    assert all(f"| {label} |" in text for label in comparison.LABELS.values())
    for case in estimator.cases(None, 1):
        assert case.name in section("estimator")
