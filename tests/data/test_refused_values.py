"""Values that cannot be features."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
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


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [list_table, wide_table])
def test_value_that_is_not_finite(tmp_path, bad, dtype, shape):
    values = X.astype(dtype)
    values[23, 1] = values[31, 0] = bad
    name = "X[1]" if shape is list_table else "f1"
    assert f"table.parquet, row 23 (counted from 0): {bad} in column '{name}'" in refused_table(
        shape(values, Y), tmp_path
    )


def test_first_bad_row_is_counted_within_its_file_and_found_in_either_part_of_the_split(tmp_path):
    for row in range(0, 40, 3):
        values = X.copy()
        values[row, 2] = np.nan
        (tmp_path / str(row)).mkdir()
        pq.write_table(wide_table(values, Y).slice(0, 15), tmp_path / str(row) / "a.parquet", row_group_size=4)
        pq.write_table(wide_table(values, Y).slice(15), tmp_path / str(row) / "b.parquet", row_group_size=4)
        place = (
            f"a.parquet, row {row} (counted from 0): nan"
            if row < 15
            else f"b.parquet, row {row - 15} (counted from 0): nan"
        )
        assert place in refused(tmp_path / str(row))


@pytest.mark.parametrize("kind", [pa.float64(), pa.uint8(), pa.bool_()])
def test_null_in_a_column(tmp_path, kind):
    table = pa.table({"a": pa.array([1, 0, None, None]).cast(kind), "label": [0, 1, 0, 1]})
    assert "row 2 (counted from 0): null in column 'a'" in refused_table(table, tmp_path)


def test_null_in_a_list(tmp_path):
    lists = pa.array([[1.0, 2.0], [3.0, None]], pa.list_(pa.float64(), 2))
    assert "row 1 (counted from 0): null in column 'X', element 1" in refused_table(
        pa.table({"X": lists, "label": [0, 1]}), tmp_path, val_fraction=0
    )


@pytest.mark.parametrize("kind", [pa.list_(pa.float64(), 1), pa.list_(pa.float64())])
def test_null_in_place_of_a_list(tmp_path, kind):
    table = pa.table({"X": pa.array([[1.0], None], kind), "label": [0, 1]})
    write_arrow(table, tmp_path / "rows.arrow")
    assert "rows.arrow, row 1 (counted from 0): null in column 'X'" in refused(tmp_path / "rows.arrow", val_fraction=0)
    # Parquet's reader refuses the whole batch of fixed-size lists, and says no row that could be relied upon.
    said = "row 1 (counted from 0): null in column 'X'" if pa.types.is_list(kind) else "a list column holds a null"
    assert said in refused_table(table, tmp_path, val_fraction=0)


@pytest.mark.parametrize("row", [3, 39])
def test_value_too_large_for_float32(tmp_path, row):
    values = X.copy()
    values[row, 1] = 1e39
    message = refused_table(wide_table(values, Y), tmp_path, normalize="none")
    assert f"table.parquet, row {row} (counted from 0): the value in column 'f1' is too large for float32" in message


def test_held_out_value_too_large_for_float32_once_it_is_normalised(tmp_path):
    narrow = X.astype(np.float32) * np.float32(1e-20)
    write_parquet(wide_table(narrow, Y), tmp_path / "train.parquet")
    narrow[5, 2] = 3e38
    write_parquet(wide_table(narrow, Y), tmp_path / "val.parquet")
    message = refused(tmp_path / "train.parquet", val=tmp_path / "val.parquet")
    assert "val.parquet, row 5 (counted from 0): the value in column 'f2' is too large" in message


def test_unit_of_floats_and_of_csv(tmp_path):
    assert "column 'f0' is float64, and data.normalize=unit needs integers" in refused_table(
        wide_table(X, Y), tmp_path, normalize="unit"
    )
    (tmp_path / "rows.csv").write_text("a,label\n1,0\n2,1\n")
    assert "CSV has none" in refused(tmp_path / "rows.csv", normalize="unit")
