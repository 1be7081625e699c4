"""Labels that cannot be classes."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from data_helpers import (
    list_table,
    refused,
    refused_table,
    some_rows,
    wide_table,
    write_arrow,
    write_parquet,
)

X, Y = some_rows(count=40)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (
            pa.array([0, 1, -1, 0]),
            "row 2 (counted from 0): label -1 in column 'label' is out of range; labels are integers from 0",
        ),
        (pa.array([0, 2**31, 1, 0]), f"row 1 (counted from 0): label {2**31} in column 'label' is out of range"),
        (
            pa.array([0, 2**64 - 1, 1, 0], pa.uint64()),
            f"row 1 (counted from 0): label {2**64 - 1} in column 'label' is out of range",
        ),
        (pa.array([0, 1, None, 0]), "row 2 (counted from 0): null in the label column 'label'"),
        (pa.array(["a", "b", None, "a"]), "row 2 (counted from 0): null in the label column"),
        (pa.array(["a", "b", None, "a"]).dictionary_encode(), "row 2 (counted from 0): null in the label column"),
        (pa.array(["a", "b", "a", ""]), "row 3 (counted from 0): empty label"),
        (pa.array([3, 3, 3, 3]), "every label in column 'label' is 3; expected two classes"),
        (pa.array(["a"] * 4), "every label in column 'label' is 'a'"),
        (pa.array([0.0, 1.5, 0.0, 1.0]), "row 1 (counted from 0): label 1.5 in column 'label' is not a whole number"),
        (pa.array([b"a", b"b", b"a", b"b"]), "label column 'label' is binary"),
        (pa.array([[0], [1], [0], [1]]), "label column 'label' is list"),
        (pa.nulls(4), "label column 'label' is null"),
    ],
)
def test_labels(tmp_path, labels, said):
    table = pa.table({"a": [1.0, 2.0, 3.0, 4.0], "label": labels})
    assert said in refused_table(table, tmp_path)


def test_null_among_the_values_of_a_dictionary(tmp_path):
    labels = pa.DictionaryArray.from_arrays([0, 1] * 20, pa.array(["ant", None]))
    table = list_table(X, Y).drop_columns(["label"]).append_column("label", labels)
    write_arrow(table, tmp_path / "rows.arrow")
    assert "rows.arrow, row 1 (counted from 0): null in the label column 'label'" in refused(tmp_path / "rows.arrow")


def test_a_label_as_long_as_a_text(tmp_path):
    labels = pa.array(["ant", "b" * 4_000_000] * 20)
    table = list_table(X, Y).drop_columns(["label"]).append_column("label", labels)
    message = refused_table(table, tmp_path)
    assert "row 1 (counted from 0): a label of 4,000,000 characters" in message
    assert "at most 1,000" in message


def test_label_outside_the_given_classes(tmp_path):
    table = pa.table({"a": np.arange(5.0), "label": [0, 2, 1, 7, 3]})
    message = refused_table(table, tmp_path, classes=3)
    assert "row 3 (counted from 0): label 7 in column 'label' is out of range; data.classes=3 expects 0 to 2" in message


def test_one_label_of_many_given_classes(tmp_path):
    assert "every label" in refused_table(pa.table({"a": np.arange(5.0), "label": [1] * 5}), tmp_path, classes=3)


def test_given_classes_with_strings_or_too_many(tmp_path):
    table = pa.table({"a": [1.0, 2.0], "label": ["a", "b"]})
    write_parquet(table, tmp_path / "rows.parquet")
    assert "is of strings; leave data.classes unset" in refused(tmp_path / "rows.parquet", classes=2, val_fraction=0)
    assert "expected at most 65536" in refused("digits", classes=10**12)


def test_an_identifier_taken_for_the_label(tmp_path):
    numbers = np.arange(70_000)
    message = refused_table(pa.table({"a": numbers, "label": numbers}), tmp_path)
    assert "more than 65536 distinct labels here; is it an identifier?" in message


def test_label_that_only_validation_rows_have(tmp_path):
    write_parquet(wide_table(X, Y), tmp_path / "train.parquet")
    other = Y.copy()
    other[12] = 9
    write_parquet(wide_table(X, other), tmp_path / "val.parquet")
    message = refused(tmp_path / "train.parquet", val=tmp_path / "val.parquet")
    assert "val.parquet, row 12 (counted from 0): label 9 in column 'label' is not among the training rows'" in message
