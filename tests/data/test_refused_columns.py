"""Columns that are missing, named twice, or of types that cannot be features."""

from __future__ import annotations

import pyarrow as pa
import pytest
from data_helpers import (
    list_table,
    load_from,
    load_table,
    refused,
    refused_table,
    some_rows,
    wide_table,
    write_arrow,
    write_parquet,
)

from distsgd.errors import DataError

X, Y = some_rows(count=40)


def test_missing_label_names_the_nearest(tmp_path):
    message = refused_table(wide_table(X, Y, label="lable"), tmp_path)
    assert (
        "no column 'label' (did you mean 'lable'?) for data.label; the columns are 'f0', 'f1', 'f2', 'lable'" in message
    )


def test_missing_label_among_many_columns(tmp_path):
    message = refused_table(pa.table({f"column{i}": [1] for i in range(5000)}), tmp_path)
    assert "and 4992 more" in message


def test_missing_feature_names_the_nearest(tmp_path):
    message = refused_table(wide_table(X, Y), tmp_path, features=("f0", "g1"))
    assert "no column 'g1' (did you mean 'f1'?)" in message


@pytest.mark.parametrize(
    ("features", "said"),
    [(("f0", "label"), "which is the label"), (("f0", "f0"), "names 'f0' twice")],
)
def test_choice_of_features(tmp_path, features, said):
    write_parquet(wide_table(X, Y), tmp_path / "rows.parquet")
    assert said in refused(tmp_path / "rows.parquet", features=features)


def test_no_features(tmp_path):
    assert "no feature column" in refused_table(pa.table({"label": Y}), tmp_path)


def test_same_name_twice(tmp_path):
    table = pa.table([pa.array([1.0, 2.0])] * 2 + [pa.array([0, 1])], names=["a", "a", "label"])
    assert "2 columns have the name 'a'" in refused_table(table, tmp_path)


@pytest.mark.parametrize(
    "values",
    [
        pa.array([1, 2], pa.date32()),
        pa.array([1, 2], pa.timestamp("s")),
        pa.array([b"a", b"b"]),
        pa.array([{"a": 1}, {"a": 2}]),
        pa.array([["a"], ["b"]], pa.list_(pa.string(), 1)),
        pa.array([[[1]], [[2]]], pa.list_(pa.list_(pa.int8(), 1), 1)),
    ],
    ids=lambda values: str(values.type),
)
def test_column_that_is_not_numbers(tmp_path, values):
    write_arrow(pa.table({"city": values, "label": [0, 1]}), tmp_path / "rows.arrow")
    message = refused(tmp_path / "rows.arrow", val_fraction=0)
    assert f"rows.arrow: column 'city' is {values.type}, and " in message
    assert "--set data.exclude=city" in message


def test_columns_without_values_are_left_out(tmp_path):
    table = wide_table(X, Y).append_column("empty", pa.nulls(len(Y)))
    data = load_table(table, tmp_path)
    assert data.description == "features (3): f0, f1, f2; left out: empty (no values)"
    assert data.features == {"used": ["f0", "f1", "f2"], "left_out": {"empty": "no values"}}
    write_parquet(wide_table(X, Y).append_column("empty", pa.array(Y)), tmp_path / "val.parquet")
    assert load_from(tmp_path / "table.parquet", val=tmp_path / "val.parquet").schema.columns == ("f0", "f1", "f2")
    assert "'empty' is null" in refused(tmp_path / "table.parquet", features=("f0", "empty"))
    only = pa.table({"empty": pa.nulls(4), "label": [0, 1, 0, 1]})
    assert "no feature column; expected at least one beside the label 'label'; 'empty' is left out: no values" in (
        refused_table(only, tmp_path)
    )


@pytest.mark.parametrize("kind", [pa.struct({"a\nb": pa.int8()}), pa.struct({f"a{i}": pa.int8() for i in range(9999)})])
@pytest.mark.parametrize("name", ["city", "x" * 100_000])
def test_the_message_is_a_line_whatever_names_there_are(tmp_path, kind, name):
    write_arrow(pa.table({name: pa.array([{}] * 4, kind), "label": [0, 1] * 2}), tmp_path / "ro\nws.arrow")
    with pytest.raises(DataError) as error:
        load_from(tmp_path / "ro\nws.arrow")
    message = str(error.value)
    first, found, title, remedy = message.splitlines()
    assert first == "the rows cannot be trained on as they are; a problem was found:"
    assert title == "what to do:"
    assert max(map(len, (found, remedy))) < 1_210
    assert "ro\\nws.arrow: column '" in message
    assert "data.exclude" in message


def test_lists_beside_numbers(tmp_path):
    table = list_table(X, Y).append_column("age", pa.array(Y))
    assert "column 'age', beside column 'X', which holds lists" in refused_table(table, tmp_path)
    assert load_from(tmp_path / "table.parquet", exclude=("age",)).schema.width == 3
    assert load_from(tmp_path / "table.parquet", features=("X",)).schema.width == 3


def test_lists_of_several_lengths(tmp_path):
    table = pa.table({"X": [[1.0, 2.0], [3.0, 4.0], [5.0]], "label": [0, 1, 0]})
    message = refused_table(table, tmp_path)
    assert "row 2 (counted from 0): a list of 1 value in column 'X', not 2" in message


@pytest.mark.parametrize("first", [[], None])
def test_lists_of_nothing(tmp_path, first):
    table = pa.table({"X": pa.array([first, [1.0]], pa.list_(pa.float64())), "label": [0, 1]})
    assert "the lists of column 'X' hold no values" in refused_table(table, tmp_path)
