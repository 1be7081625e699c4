"""Which columns become features and how: categories, missing values, what is left out, and one message for the rest."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_helpers import load_from, load_table, refused_table, write_arrow, write_parquet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import distsgd
from distsgd.config import Config, parse_assignments
from distsgd.data.remedies import setting
from distsgd.errors import DataError

N = 60
COLORS = np.array(["red", "green", "blue"])[np.arange(N) % 3]
LABELS = np.arange(N) // 2 % 2
AGE = np.random.default_rng(0).normal(40, 9, N)


def some_table(**columns) -> pa.Table:
    return pa.table({"age": AGE, "color": COLORS, "label": LABELS, **columns})


def test_categories_are_one_hot_and_stay_0_and_1(tmp_path):
    data = load_table(some_table(), tmp_path, val_fraction=0)
    assert data.feature_names == ("age", "color=blue", "color=green", "color=red")
    assert data.train.X[:3, 1:].tolist() == [[0, 0, 1], [0, 1, 0], [1, 0, 0]]
    assert abs(data.train.X[:, 0].mean()) < 1e-6
    assert data.description == "features (4): age, color (one-hot, 3)"


def test_categories_and_booleans_alone_are_kept_in_a_byte(tmp_path):
    table = some_table(b=AGE > 40, code=pa.array(np.arange(N) % 5).dictionary_encode()).drop_columns("age")
    write_arrow(table, tmp_path / "rows.arrow")
    data = load_from(tmp_path / "rows.arrow", val_fraction=0)
    assert data.train.X.dtype == np.uint8
    assert data.feature_names[-5:] == tuple(f"code={i}" for i in range(5))


def test_text_and_index_are_left_out_and_said(tmp_path):
    table = some_table(id=[f"row {i}" for i in range(N)], __index_level_0__=np.arange(N))
    data = load_table(table, tmp_path, val_fraction=0)
    assert data.description == (
        "features (4): age, color (one-hot, 3); left out: __index_level_0__ (pandas' index), "
        f"id (text, {N} different values in {N} rows)"
    )
    assert load_table(table, tmp_path, features=("__index_level_0__",)).feature_names == ("__index_level_0__",)


def test_pandas_index_with_a_name_is_left_out(tmp_path):
    pd.DataFrame({"number": np.arange(N), "age": AGE, "label": LABELS}).set_index("number").to_parquet(
        tmp_path / "rows.parquet"
    )
    assert load_from(tmp_path / "rows.parquet").feature_names == ("age",)


def test_many_values_are_left_out_hashed_or_refused(tmp_path):
    table = some_table(city=[f"city {i % 20}" for i in range(N)])
    assert "city (text, more than 10 different values)" in load_table(table, tmp_path, max_categories=10).description
    data = load_table(table, tmp_path, max_categories=10, categorical="hash", features=("city",))
    assert data.feature_names == tuple(f"city#{i}" for i in range(10))
    assert (data.train.X.sum(axis=1) == 1).all()
    message = refused_table(table, tmp_path, max_categories=10, features=("age", "city"))
    assert "raise data.max_categories" in message
    assert message.endswith("--set data.features=age")
    assert "string, and data.categorical is refuse" in refused_table(table, tmp_path, categorical="refuse")


def test_all_that_is_unusable_is_named_at_once_with_a_setting_that_works(tmp_path):
    table = some_table(when=pa.array(range(N), pa.date32()), blob=[b"x"] * N).rename_columns(
        ["age", "color", "target", "when", "blob, big"]
    )
    with pytest.raises(DataError) as caught:
        load_table(table, tmp_path)
    message = str(caught.value)
    assert "no column 'label' for" in message
    assert "'when' is date32[day], and dates and times are no features" in message
    assert "column 'blob, big' is binary, and features are numbers or categories" in message
    assert '--set data.label=target --set \'data.exclude=["when", "blob, big"]\'' in message
    data = load_table(table, tmp_path, label="target", exclude=("when", "blob, big"))
    assert data.description.endswith("left out: when (data.exclude), blob, big (data.exclude)")


@given(st.lists(st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1), min_size=1, max_size=4))
def test_a_setting_that_a_message_gives_is_read_as_it_was_meant(names):
    import shlex

    (_, text) = shlex.split(setting("data.exclude", names))
    assert Config.build(parse_assignments([text])).data.exclude == tuple(names)


def test_lists_on_the_command_line():
    values = parse_assignments(["data.features=a, b", "data.exclude=c"])
    config = Config.build(values).data
    assert (config.features, config.exclude) == (("a", "b"), ("c",))


@pytest.mark.parametrize("missing", ["mean", "zero"])
def test_missing_values_are_filled(tmp_path, missing):
    age = AGE.copy()
    age[5] = np.nan
    colors = [None if i == 7 else color for i, color in enumerate(COLORS)]
    count = pa.array([None if i == 9 else i for i in range(N)], pa.int8())
    table = pa.table({"age": age, "color": colors, "count": count, "label": LABELS})
    message = refused_table(table, tmp_path)
    assert message.startswith("the rows cannot be trained on as they are; 3 problems were found:\n")
    assert re.findall(r"(\w+) in column '(\w+)' \((.*)\)", message) == [
        ("nan", "age", "1 of 60 rows"),
        ("null", "color", "1 of 60 rows"),
        ("null", "count", "1 of 60 rows"),
    ]
    data = load_table(table, tmp_path, missing=missing, val_fraction=0, normalize="none")
    fills = (np.nanmean(age), (sum(range(N)) - 9) / (N - 1)) if missing == "mean" else (0, 0)
    np.testing.assert_allclose([data.train.X[5, 0], data.train.X[9, -1]], fills, rtol=1e-6)
    assert data.train.X[7, 1:4].tolist() == [0, 0, 0]
    np.testing.assert_allclose(data.inputs.matrix(table.drop_columns("label").to_pandas()), data.train.X, rtol=1e-6)


def test_categories_that_only_held_out_rows_have_set_no_feature(tmp_path):
    write_parquet(some_table(), tmp_path / "train.parquet")
    other = np.where(np.arange(N) == 4, "pink", COLORS)
    write_parquet(pa.table({"color": other, "age": AGE, "label": LABELS}), tmp_path / "val.parquet")
    data = load_from(tmp_path / "train.parquet", val=tmp_path / "val.parquet")
    assert data.val.X[4, 1:].tolist() == [0, 0, 0]
    (notice,) = data.notices
    assert "1 held-out row has a value in column 'color' that no training row has" in notice
    assert "'pink'" in notice


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(["a", "b", "ä", "", "x y"]), min_size=12, max_size=40), st.booleans())
def test_rows_are_encoded_as_a_model_encodes_them(tmp_path, texts, hashed):
    table = pa.table({"t": texts * 2, "x": np.arange(2.0 * len(texts)), "label": [0, 1] * len(texts)})
    kind = {"categorical": "hash", "max_categories": 2} if hashed else {}
    data = load_table(table, tmp_path, val_fraction=0, normalize="none", **kind)
    assert np.array_equal(data.inputs.matrix(table.drop_columns("label").to_pandas()), data.train.X)


def test_the_mean_does_not_depend_on_how_rows_are_cut_into_files(tmp_path):
    age = np.where(np.arange(N) % 7 == 0, np.nan, AGE)
    table = pa.table({"age": age, "label": LABELS})
    (tmp_path / "rows").mkdir()
    pq.write_table(table.slice(0, 13), tmp_path / "rows" / "a.parquet")
    pq.write_table(table.slice(13), tmp_path / "rows" / "b.parquet")
    assert load_from(tmp_path / "rows", missing="mean").digest == load_table(table, tmp_path, missing="mean").digest


@pytest.mark.parametrize("labels", [LABELS + 1.0, LABELS.astype(bool), (LABELS + 1.0).astype("f4")])
def test_labels_that_are_whole_floats_or_booleans(tmp_path, labels):
    data = load_table(pa.table({"age": AGE, "label": labels}), tmp_path)
    assert data.classes.dtype == np.int64
    assert data.classes.tolist() == sorted(set(labels.astype(int).tolist()))


def test_labels_that_are_measured_numbers_or_identifiers(tmp_path):
    x = np.arange(600.0)
    assert "looks like regression" in refused_table(pa.table({"x": x, "label": x + 0.5}), tmp_path)
    assert "looks like regression" in refused_table(pa.table({"x": x, "label": x // 4}), tmp_path)
    assert "is it an identifier?" in refused_table(pa.table({"x": x, "label": [f"r{i}" for i in range(600)]}), tmp_path)
    data = load_table(pa.table({"x": x, "label": (x // 4).astype(int)}), tmp_path)
    assert any("looks like regression" in notice for notice in data.notices)


def test_a_model_of_categories_predicts_the_frame_it_was_trained_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pq.write_table(some_table(id=[f"row {i}" for i in range(N)]), "rows.parquet")
    result = distsgd.train(
        {"data.train": "rows.parquet", "run.workers": 0, "train.epochs": 3, "tracking.enabled": False}
    )
    frame = pd.read_parquet("rows.parquet")[["color", "age"]]
    assert len(result.model.predict(frame)) == N
    model = distsgd.Classifier.load(result.run_dir / "model.npz")
    assert np.array_equal(model.predict_proba(frame), result.model.predict_proba(frame[["age", "color"]]))


def test_what_is_said_of_missing_values_fits_the_other_settings(tmp_path):
    holes = np.where(np.arange(N) < 3, np.nan, AGE)
    table = some_table(a=holes, nothing=np.full(N, np.nan), none=np.full(N, np.nan))
    assert refused_table(table, tmp_path, features=["age", "a"]).endswith("--set data.features=age")
    message = refused_table(table, tmp_path, missing="mean", exclude=["color"])
    assert "nothing (no values in the training rows), none (no values in the training rows)" in message
    assert message.endswith("--set data.exclude=color,nothing,none")
    message = refused_table(table, tmp_path, missing="mean", features=["age", "nothing"])
    assert message.endswith("--set data.features=age")
