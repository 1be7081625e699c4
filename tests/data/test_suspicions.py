"""Warnings about columns that look like a mistake: made-up tables with one, and clean ones without."""

from __future__ import annotations

import time

import numpy as np
import pytest

from distsgd.core.inputs import Column, Inputs
from distsgd.data import ArrayRows
from distsgd.data.suspicions import REMEDY, suspicions


def found(columns: dict[str, np.ndarray], y: np.ndarray, dtype: str = "float32") -> tuple[str, ...]:
    X = np.stack(list(columns.values()), axis=1)
    if dtype == "float32":
        X = (X - X.mean(axis=0)) / np.where(X.std(axis=0) == 0, 1, X.std(axis=0))  # as `standard` stores them
    inputs = Inputs(tuple(Column(name=name, kind="number", dtype="float64") for name in columns))
    return suspicions(ArrayRows(X.astype(dtype), y.astype(np.int64)), inputs)


def table(seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return a clean table of some hundreds to thousands of rows: numbers, counts, 0/1, and labels with noise."""
    rng = np.random.default_rng(seed)
    n, classes = int(rng.integers(300, 6000)), int(rng.integers(2, 6))
    columns = {f"x{i}": rng.normal(size=n) * 10.0**i for i in range(int(rng.integers(2, 6)))}
    columns["age"] = rng.integers(18, 90, n)
    columns["income"] = np.exp(rng.normal(10, 1, n)).round()
    columns["member"] = rng.integers(0, 2, n)
    columns["city=rare"] = (rng.random(n) < 0.02) | (np.arange(n) == n // 3)
    score = columns["x0"] + 0.3 * columns["member"] + rng.normal(size=n) * rng.choice([0.3, 1.0])
    share = np.linspace(0, 1, classes + 1)[1:-1] ** rng.choice([0.3, 1.0])  # even or rare classes
    return columns, np.searchsorted(np.quantile(score, share), score)


def shuffled(columns: dict[str, np.ndarray], name: str, values: np.ndarray, rng) -> dict[str, np.ndarray]:
    """Return the table with one more column, at some place."""
    items = list(columns.items())
    items.insert(int(rng.integers(len(items) + 1)), (name, values))
    return dict(items)


@pytest.mark.parametrize("seed", range(10))
def test_nothing_is_found_in_a_clean_table(seed):
    assert found(*table(seed)) == ()


@pytest.mark.parametrize("seed", range(10))
def test_the_index_the_row_number_and_the_leak_are_found(seed):
    rng = np.random.default_rng(100 + seed)
    columns, y = table(seed)
    n, classes = len(y), int(y.max()) + 1
    columns = shuffled(columns, "Unnamed: 0", rng.permutation(n), rng)
    numbers = [np.arange(n), 1000 - 2.0 * np.arange(n), np.sort(rng.random(n))][seed % 3]
    columns = shuffled(columns, "number", numbers, rng)
    code = rng.permutation(classes)[y]
    wrong = rng.random(n) < 0.005
    leak = [code, code + rng.random(n) * 0.9, np.where(wrong, rng.integers(classes, size=n), code)][seed % 3]
    columns = shuffled(columns, "outcome", leak, rng)
    columns = shuffled(columns, "version", np.full(n, 3.7), rng)
    texts = found(columns, y)
    assert {text.split("'")[1]: text for text in texts}.keys() == {"Unnamed: 0", "number", "outcome", "version"}
    by_name = {text.split("'")[1]: text for text in texts}
    assert by_name["Unnamed: 0"] == f"warning: column 'Unnamed: 0' looks like an index; {REMEDY}"
    assert "looks like a row number" in by_name["number"]
    assert "alone determines the label" in by_name["outcome"]
    assert "column 'version' never changes" in by_name["version"]


def test_the_data_sets_of_scikit_learn_are_clean():
    from sklearn.datasets import load_breast_cancer, load_iris, load_wine

    for loaded in (load_iris(), load_wine(), load_breast_cancer()):
        order = np.random.default_rng(0).permutation(len(loaded.target))
        names = [name.split(" (")[0] for name in loaded.feature_names]
        for labels in (loaded.target, loaded.target == 0):
            assert found(dict(zip(names, loaded.data[order].T, strict=True)), labels[order]) == ()


def test_classes_that_many_columns_tell_apart_are_just_easy():
    rng = np.random.default_rng(0)
    y = rng.integers(3, size=3000)
    columns = {f"x{i}": 10.0 * (y == i % 3) + 5 * (y == (i + 1) % 3) + rng.normal(size=3000) for i in range(6)}
    assert found(columns, y) == ()


@pytest.mark.parametrize("share", [0.01, 0.05, 0.5])
def test_a_rare_class_is_determined_only_by_what_finds_it(share):
    rng = np.random.default_rng(0)
    y = rng.random(20_000) < share
    columns = {"a": rng.normal(size=20_000), "b": rng.normal(size=20_000) + y, "leak": 3.0 * y + rng.random(20_000)}
    (text,) = found(columns, y)
    assert "'leak' alone determines" in text
    assert found({"a": columns["a"], "b": columns["b"]}, y) == ()


def test_small_integers_are_looked_at_as_they_are_stored():
    rng = np.random.default_rng(0)
    y = rng.integers(4, size=250)
    columns = {"n": np.arange(250), "grey": rng.integers(256, size=250), "copy": 7 * y, "same": np.full(250, 9)}
    assert [text.split("'")[1] for text in found(columns, y, "uint8")] == ["n", "copy", "same"]


def test_an_identifier_is_known_by_its_name_and_its_values():
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=1000)
    some = {"x": rng.normal(size=1000)}
    assert "'ID' looks like an index" in found({**some, "ID": rng.permutation(1000)}, y)[0]
    assert found({**some, "id": rng.integers(9, size=1000), "no": rng.integers(2, size=1000)}, y) == ()


def test_a_category_that_determines_the_label_is_found_by_its_column():
    rng = np.random.default_rng(0)
    y = rng.integers(3, size=900)
    color, kind = rng.integers(4, size=900), rng.permutation(3)[y]
    X = np.concatenate([np.eye(4)[color], np.eye(3)[kind], rng.normal(size=(900, 1))], axis=1)
    inputs = Inputs(
        (
            Column(name="color", kind="category", dtype="str", categories=("b", "g", "r", "y")),
            Column(name="diagnosis", kind="category", dtype="str", categories=("x", "y", "z")),
            Column(name="age", kind="number", dtype="float64"),
        )
    )
    (text,) = suspicions(ArrayRows(X.astype(np.float32), y), inputs)
    assert text.startswith("warning: column 'diagnosis' alone determines the label")


def test_a_rare_value_beyond_the_sample_is_no_constant():
    X = np.zeros((150_000, 3), np.float32)
    X[77_777, 0] = 1
    X[:, 1] = np.random.default_rng(0).random(len(X))
    inputs = Inputs(tuple(Column(name=name, kind="number", dtype="float32") for name in "abc"))
    y = np.arange(len(X)) % 7 % 2
    assert [text.split("'")[1] for text in suspicions(ArrayRows(X, y), inputs)] == ["c"]


def test_columns_of_one_kind_are_one_line():
    rng = np.random.default_rng(0)
    columns = {f"n{i}": np.arange(100) * i + 1.0 for i in range(1, 9)} | {"Unnamed: 0": rng.permutation(100)}
    assert found(columns, rng.integers(2, size=100)) == (
        f"warning: column 'Unnamed: 0' looks like an index; {REMEDY}",
        f"warning: columns 'n1', 'n2', 'n3', 'n4', 'n5' and 3 more look like row numbers; {REMEDY}",
    )
    few = {"Unnamed: 0": np.arange(7), "x": rng.random(7)}
    assert len(found(few, np.arange(7) % 2)) == 1


def test_too_few_rows_and_lists_are_not_judged():
    assert found({"n": np.arange(15), "c": np.zeros(15)}, np.arange(15) % 2) == ()
    inputs = Inputs((Column(name="pixels", kind="list", dtype="uint8", width=3),))
    assert suspicions(ArrayRows(np.zeros((500, 3), np.uint8), np.arange(500) % 2), inputs) == ()


def test_a_large_table_takes_little_time():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200_000, 60)).astype(np.float32)
    inputs = Inputs(tuple(Column(name=f"x{i}", kind="number", dtype="float32") for i in range(60)))
    rows = ArrayRows(X, rng.integers(2, size=len(X)))
    began = time.process_time()
    assert suspicions(rows, inputs) == ()
    assert time.process_time() - began < 0.5
