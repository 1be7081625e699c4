"""Files that do not have the columns of the others."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from data_helpers import (
    list_table,
    load_from,
    refused,
    some_rows,
    wide_table,
    write_parquet,
)

X, Y = some_rows(count=40)


TABLES = {
    "extra": (wide_table(X, Y).append_column("g", pa.array(Y)), "column 'g' is not in"),
    "missing": (wide_table(X, Y).drop_columns("f1"), "no column 'f1', which"),
    "no label": (wide_table(X, Y).drop_columns("label"), "no column 'label'"),
    "list": (list_table(X, Y, column="f0"), "no column 'f1'"),
    "strings": (wide_table(X, Y).set_column(1, "f1", pa.array(["a"] * 40)), "column 'f1' is string"),
    "string labels": (wide_table(X, Y.astype(str)), "label column 'label' is of strings, in"),
}


@pytest.mark.parametrize(("table", "said"), TABLES.values(), ids=TABLES)
def test_columns_that_differ_between_files_or_from_the_training_rows(tmp_path, table, said):
    folder = tmp_path / "rows"
    folder.mkdir()
    write_parquet(wide_table(X, Y), folder / "a.parquet")
    write_parquet(table, folder / "b.parquet")
    message = refused(folder)
    assert said in message
    assert "b.parquet" in message
    message = refused(folder / "a.parquet", val=folder / "b.parquet")
    assert said in message
    assert "b.parquet" in message


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (list_table(X, Y), list_table(X[:, :2], Y), "column 'X' holds lists of 2, in"),
        (list_table(X, Y), pa.table({"X": X[:, 0], "label": Y}), "column 'X' holds single numbers, in"),
        (pa.table({"X": X[:, 0], "label": Y}), list_table(X, Y), "column 'X' holds lists of 3, in"),
    ],
)
def test_shapes_that_differ(tmp_path, first, second, said):
    write_parquet(first, tmp_path / "a.parquet")
    write_parquet(second, tmp_path / "b.parquet")
    assert said in refused(tmp_path)
    assert said in refused(tmp_path / "a.parquet", val=tmp_path / "b.parquet")


def test_types_that_differ(tmp_path):
    whole = np.abs(X * 10).astype(np.uint8)
    write_parquet(wide_table(whole, Y), tmp_path / "a.parquet")
    write_parquet(wide_table(whole.astype(np.float32), Y), tmp_path / "b.parquet")
    assert "column 'f0' is float32, in" in refused(tmp_path)
    # Rows kept as uint8 cannot take in fractions; the other way round nothing is lost.
    assert "column 'f0' is float32, in" in refused(tmp_path / "a.parquet", val=tmp_path / "b.parquet")
    assert load_from(tmp_path / "b.parquet", val=tmp_path / "a.parquet").val is not None
    write_parquet(wide_table(whole.astype(np.int32), Y), tmp_path / "c.parquet")
    message = refused(tmp_path / "c.parquet", val=tmp_path / "a.parquet", normalize="unit")
    assert "column 'f0' is uint8, in" in message


def test_text_in_one_csv_file_of_a_folder(tmp_path):
    (tmp_path / "a.csv").write_text("x,label\n1,0\n2,1\n")
    (tmp_path / "b.csv").write_text("x,label\n1,0\nhello,1\n")
    message = refused(tmp_path)
    assert "b.csv: column 'x' is text" in message
