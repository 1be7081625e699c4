"""Folders whose names hold a column: `year=2020`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_helpers import load_from, refused, some_rows, wide_table, write_parquet

from distsgd.data.partitions import partition_values

X, Y = some_rows(count=40)
RAW = {"val_fraction": 0, "normalize": "none"}


def write_partitioned(folder: Path, names: list[str]) -> Path:
    """Write ten rows into each of the folders."""
    for number, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        rows = slice(10 * number, 10 * number + 10)
        write_parquet(wide_table(X[rows], Y[rows]), folder / name / "rows.parquet")
    return folder


def test_a_folders_column_is_left_out_and_said(tmp_path):
    folder = write_partitioned(tmp_path / "rows", ["year=2020/day=1", "year=2021/day=2"])
    data = load_from(folder, **RAW)
    assert data.feature_names == ("f0", "f1", "f2")
    assert data.notices == (
        f"{folder}: the folders' columns 'year', 'day' are left out; name what you need in data.features or data.label",
    )
    write_parquet(wide_table(X[:20], Y[:20]), tmp_path / "whole.parquet")
    assert data.digest == load_from(tmp_path / "whole.parquet", **RAW).digest


@pytest.mark.parametrize("location", ["rows", "rows/*/rows.parquet", "rows/kind=*"])
def test_a_folders_column_as_label_and_feature(tmp_path, location):
    write_partitioned(
        tmp_path / "rows", ["kind=a%20b/n=-3", "kind=c/n=40"] if location == "rows" else ["kind=a b", "kind=c"]
    )
    features = ("n", "f1", "f0") if location == "rows" else ("f1", "f0")
    if location.endswith("*"):
        location += "/*"
    data = load_from(tmp_path / location, label="kind", features=features, **RAW)
    assert data.classes.tolist() == ["a b", "c"]
    assert data.train.y.tolist() == [0] * 10 + [1] * 10
    assert np.array_equal(data.train.X[:, -2:], X[:20, [1, 0]].astype(np.float32))
    if "n" in features:
        assert data.train.X[:, 0].tolist() == [-3] * 10 + [40] * 10
    assert data.notices == ()


def test_what_spark_and_pyarrow_write(tmp_path):
    table = wide_table(X, Y, label="kind").append_column("year", pa.array([2020, 2021, None, 2020] * 10))
    pq.write_to_dataset(table, tmp_path / "rows", partition_cols=["kind", "year"])
    data = load_from(tmp_path / "rows", label="kind", features=("f0", "f1"), **RAW)
    assert data.classes.tolist() == [0, 1, 2, 3]
    assert sorted(map(tuple, data.train.X)) == sorted(map(tuple, X[:, :2].astype(np.float32)))
    assert "null in column 'year'" in refused(tmp_path / "rows", label="kind", features=("f0", "year"))


def test_files_beside_the_folders_and_columns_that_files_have(tmp_path):
    folder = write_partitioned(tmp_path / "rows", ["label=7", "f0=8"])
    assert len(load_from(folder, **RAW).classes) == 4
    assert load_from(folder, **RAW).notices == ()
    folder = write_partitioned(tmp_path / "more", ["kind=1", "other"])
    assert "is in no folder kind=..., as other files" in refused(folder, label="kind")


def test_csv_in_such_folders_names_lines(tmp_path):
    for kind in "ab":
        (tmp_path / f"kind={kind}").mkdir()
        (tmp_path / f"kind={kind}" / "rows.csv").write_text("x,y\n1,2\n,3\n")
    assert "line 3: null in column 'x'" in refused(tmp_path, label="kind", val_fraction=0)


@pytest.mark.parametrize(
    ("location", "path", "expected"),
    [
        ("/a=1/rows", "/a=1/rows/b=2/x.parquet", {"b": "2"}),
        ("/a=1/b=*/x.parquet", "/a=1/b=2/x.parquet", {"b": "2"}),
        ("b=*", "b=2", {}),
        ("x.parquet", "x.parquet", {}),
        ("a=1/x.parquet", "a=1/x.parquet", {}),
    ],
)
def test_only_folders_below_the_location_count(location, path, expected):
    assert partition_values(location, path) == expected
