"""Targets that are labels of 0 and 1, or numbers: in several columns, in a column of lists, in arrays."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_helpers import WRITERS, list_table, some_rows, wide_table

from distsgd.config import Config, DataConfig
from distsgd.data import DataSet, filling, load
from distsgd.errors import ConfigError, DataError

X, _ = some_rows()
NUMBERS = np.random.default_rng(1).normal(50, 9, (len(X), 3))
LABELS = (NUMBERS > 50).astype(int)


def columns(y: np.ndarray) -> pa.Table:
    """Return rows with the label columns a, b and c between those of features."""
    table = wide_table(X, np.zeros(len(X))).drop_columns("label")
    for place, name in enumerate("abc"):
        table = table.add_column(place, name, pa.array(y[:, place]))
    return table


def lists(y: np.ndarray) -> pa.Table:
    values = pa.ListArray.from_arrays(np.arange(len(y) + 1) * y.shape[1], pa.array(y.ravel()))
    return wide_table(X, np.zeros(len(X))).drop_columns("label").append_column("scores", values)


def loaded(location, target: str, **values) -> DataSet:
    return load(DataConfig(train=str(location), **values), target=target)


def whole(data: DataSet) -> np.ndarray:
    """Return the targets of all rows."""
    return np.concatenate([data.train.y, data.val.y])


@pytest.mark.parametrize(("target", "y"), [("labels", LABELS), ("numbers", NUMBERS)])
@pytest.mark.parametrize("form", WRITERS)
def test_several_columns(form, target, y, tmp_path):
    name, write = WRITERS[form]
    write(columns(y), tmp_path / name)
    data = loaded(tmp_path / name, target, label=("c", "a"))
    assert data.schema.columns == ("b", "f0", "f1", "f2")
    assert data.classes.tolist() == ["c", "a"]
    assert data.train.y.dtype == np.float32
    expected = y[:, [2, 0]].astype("f4")
    assert sorted(whole(data).tolist()) == sorted(expected.tolist())
    one = loaded(tmp_path / name, target, label="c")
    assert one.train.target == (np.float32, (1,))
    assert one.digest != data.digest


@pytest.mark.parametrize(("target", "y"), [("labels", LABELS), ("numbers", NUMBERS)])
def test_a_column_of_lists(target, y, tmp_path):
    WRITERS["parquet"][1](lists(y), tmp_path / "rows.parquet")
    np.savez(tmp_path / "rows.npz", X=X, y=y)
    data = loaded(tmp_path / "rows.parquet", target, label="scores")
    arrays = loaded(tmp_path / "rows.npz", target)
    passed = load(DataConfig(), data=(X, y), target=target)
    frame = load(DataConfig(label="abc"), data=({"u": X[:, 0], "v": X[:, 1]}, y), target=target)
    assert data.classes.tolist() == ["scores[0]", "scores[1]", "scores[2]"]
    assert arrays.digest == passed.digest
    for found in (data, arrays, passed, frame):
        assert np.array_equal(whole(found), whole(arrays))
        assert found.train.y.flags.c_contiguous
    assert frame.classes.tolist() == ["abc[0]", "abc[1]", "abc[2]"]


def test_held_out_rows_have_the_same_targets(tmp_path):
    for name, y in (("train", NUMBERS), ("val", NUMBERS + 1), ("short", NUMBERS[:, :2])):
        WRITERS["parquet"][1](lists(y), tmp_path / f"{name}.parquet")
    data = loaded(tmp_path / "train.parquet", "numbers", val=str(tmp_path / "val.parquet"), label="scores")
    assert np.array_equal(data.val.y, (NUMBERS + 1).astype("f4"))
    with pytest.raises(DataError, match=r"short.parquet: label column 'scores' holds lists of 2, in .* lists of 3"):
        loaded(tmp_path / "train.parquet", "numbers", val=str(tmp_path / "short.parquet"), label="scores")


def refusal(table: pa.Table, target: str, **values) -> str:
    with pytest.raises(DataError) as error:
        load(DataConfig(**values), data=table, target=target)
    return str(error.value)


@pytest.mark.parametrize("bad", [0.5, 2, -1])
def test_labels_are_0_or_1(bad):
    y = LABELS.astype(float)
    y[7, 1] = bad
    message = refusal(columns(y), "labels", label=("a", "b"))
    assert f"row 7 (counted from 0): {bad:g} in the label column 'b'; expected 0 or 1" in message
    assert f"{bad:g} in the label column 'scores', element 1" in refusal(lists(y), "labels", label="scores")


def test_numbers_are_finite():
    y = NUMBERS.copy()
    y[7, 1] = 1e39
    assert "row 7 (counted from 0): 1e+39 in the label column 'b'" in refusal(columns(y), "numbers", label=("a", "b"))
    y[7, 1], y[9, 0] = np.nan, np.nan
    message = refusal(columns(y), "numbers", label=("a", "b"))
    assert (
        "row 7 (counted from 0): nan in the label column 'b'; 2 of 60 rows have no label in columns 'a', 'b'" in message
    )
    assert message.endswith("what to do:\n  - leave out the rows without a label")
    same = columns(np.full_like(y, 4))
    assert "every row has the same labels in 'a'" in refusal(same, "numbers", label="a")


def test_rows_without_a_target_are_refused():
    table = pa.table({"x": X[:, 0], "y": [*LABELS[1:].tolist(), None]})
    assert "null in the label column 'y'; 1 of 60 rows has no label in column 'y'" in refusal(
        table, "labels", label="y"
    )
    table = pa.table({"x": X[:, 0], "y": [[0, 1, 1, 0], *LABELS[1:].tolist()]})
    assert "a list of 3 in the label column 'y', not 4" in refusal(table, "labels", label="y")
    table = pa.table({"x": X[:, 0], "y": [[0, 1, None], *LABELS[1:].tolist()]})
    assert "null in the label column 'y', element 2" in refusal(table, "labels", label="y")


def test_columns_that_are_no_targets_are_refused():
    table = columns(NUMBERS).append_column("t", pa.array(["x", "y"] * 30))
    with_lists = table.append_column("l", lists(LABELS)["scores"])
    message = refusal(table, "numbers", label="t")
    assert "'t' is string, and model.loss=squared predicts numbers" in message
    assert message.endswith("column with data.label, or set model.loss=softmax, which takes text as classes")
    message = refusal(table, "labels", label=("a", "t"))  # which softmax would refuse
    assert "'t' is string, and labels are 0 or 1" in message
    assert message.endswith("here it holds 'x': correct it, or choose another column with data.label")
    dates = table.append_column("d", pa.array([0] * 60, pa.timestamp("s")))
    assert refusal(dates, "numbers", label="d").endswith("cast it, or choose another column with data.label")
    assert "'l' holds lists, and data.label names 2 columns" in refusal(with_lists, "numbers", label=("a", "l"))
    assert "no column 'bb' (did you mean 'b'?) for data.label" in refusal(table, "numbers", label=("a", "bb"))
    assert "data.features names 'b', which is the label" in refusal(
        table, "numbers", label=("a", "b"), features=("b", "f0")
    )


def test_what_looks_like_numbers_or_labels_names_the_loss():
    assert "looks like regression: set model.loss=squared" in refusal(columns(NUMBERS), "class", label="a")
    message = refusal(lists(LABELS), "class", label="scores")
    assert "set model.loss=logistic for independent labels of 0 and 1, or model.loss=squared for numbers" in message


def test_a_configuration_whose_targets_do_not_fit_is_refused():
    assert Config.build({"data.label": "a,b", "model.loss": "squared"}).data.labels == ("a", "b")
    assert Config.build({"data.label": ["a"]}).data.label == "a"
    for wrong, message in (
        ({"data.label": "a,b"}, r"set model\.loss=logistic"),
        ({"data.label": ["a", "a"], "model.loss": "squared"}, r"data\.label"),
        ({"train.label_smoothing": 0.1, "model.loss": "hinge"}, r"train\.label_smoothing needs"),
        ({"train.class_weight": "balanced", "model.loss": "squared"}, r"train\.class_weight is set"),
        ({"data.classes": 3, "model.loss": "logistic"}, r"data\.classes is set"),
    ):
        with pytest.raises(ConfigError, match=message):
            Config.build(wrong)


def test_list_features_beside_list_targets():
    table = list_table(X, np.zeros(len(X)), column="pixels").drop_columns("label")
    data = load(
        DataConfig(label="scores"), data=table.append_column("scores", lists(NUMBERS)["scores"]), target="numbers"
    )
    assert data.train.features == 3


@pytest.mark.parametrize("names", ["a,b,c", "a"])
def test_held_out_rows_without_a_label_are_told_of_the_label_not_asked_for_another(names, tmp_path):
    pq.write_table(columns(NUMBERS), tmp_path / "train.parquet")
    lacking = names.rsplit(",", maxsplit=1)[-1]
    pq.write_table(columns(NUMBERS).drop_columns(lacking), tmp_path / "new.parquet")
    with pytest.raises(
        DataError, match=f"no column '{lacking}'.* for data.label, which the training rows have"
    ) as found:
        loaded(tmp_path / "train.parquet", "numbers", val=str(tmp_path / "new.parquet"), label=names)
    assert "which one is the label" not in str(found.value)
    assert "--set data.label" not in str(found.value)


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_the_first_label_that_is_no_number_is_named(form, tmp_path):
    y = ["1.5", "2", "low", "3"] * 5 if form == "parquet" else ["low", "high", "high", "low"] * 5
    rows = pa.table({"a": np.arange(20.0), "label": y})
    path = tmp_path / f"rows.{form}"
    if form == "csv":
        rows.to_pandas().to_csv(path, index=False)
    else:
        pq.write_table(rows, path)
    with pytest.raises(DataError) as refused:
        load(DataConfig(train=str(path)), target="numbers")
    message = str(refused.value)
    assert "label column 'label' is string, and model.loss=squared predicts numbers; here it holds 'low'" in message
    assert ("row 2 (counted from 0)" if form == "parquet" else "line 2") in message


def test_memory_is_counted_for_all_targets(monkeypatch):
    data = (np.zeros((100, 2), np.float32) + np.arange(100)[:, None], np.random.default_rng(0).random((100, 50)))
    for limit, fits in ((100 * (8 + 200), True), (100 * (8 + 200) - 1, False)):
        monkeypatch.setattr(filling, "memory_limit", lambda limit=limit: limit)
        if fits:
            load(DataConfig(), data=data, target="numbers")
        else:
            with pytest.raises(DataError, match="GiB of memory"):
                load(DataConfig(), data=data, target="numbers")
