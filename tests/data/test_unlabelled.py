"""Rows that are read for prediction need no label column, and a label column is no feature of theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from data_helpers import WRITERS, list_table, some_rows, wide_table, write_parquet

from distsgd.config import DataConfig
from distsgd.data.columns import feature_block
from distsgd.data.sources import Source, open_source
from distsgd.errors import DataError

X, Y = some_rows(dtype="float32")


def unlabelled(path: Path, training: Source | None = None, **values: Any) -> Source:
    return open_source(str(path), DataConfig(train=str(path), **values), training, labelled=False)


def features(source: Source) -> np.ndarray:
    dtype = np.dtype(np.float32)
    return np.concatenate([feature_block(batch.table, source.schema, dtype) for batch in source.batches()])


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize("with_label", [False, True])
def test_features_are_read_with_or_without_a_label_column(tmp_path, form, with_label):
    name, write = WRITERS[form]
    table = wide_table(X, Y)
    write(table if with_label else table.drop_columns("label"), tmp_path / name)
    source = unlabelled(tmp_path / name)
    assert source.schema.columns == ("f0", "f1", "f2")
    assert not source.schema.labelled
    assert all(batch.table.column_names == ["f0", "f1", "f2"] for batch in source.batches())
    np.testing.assert_allclose(features(source), X, rtol=1e-6)


@pytest.mark.parametrize("with_label", [False, True])
def test_npz(tmp_path, with_label):
    np.savez(tmp_path / "rows.npz", X=X, **({"y": Y} if with_label else {}))
    source = unlabelled(tmp_path / "rows.npz")
    assert source.schema.columns == ("X",)
    assert np.array_equal(features(source), X)


def test_a_label_of_a_type_that_cannot_be_one_or_a_null_does_not_matter(tmp_path):
    table = list_table(X, Y).set_column(1, "label", pa.array([None, 0.5] * 30))
    write_parquet(table, tmp_path / "rows.parquet")
    assert np.array_equal(features(unlabelled(tmp_path / "rows.parquet")), X)


def test_columns_are_held_to_the_training_rows_and_put_in_their_order(tmp_path):
    write_parquet(wide_table(X, Y), tmp_path / "train.parquet")
    training = open_source(str(tmp_path / "train.parquet"), DataConfig(train=str(tmp_path / "train.parquet")))
    write_parquet(wide_table(X, Y).select(["f2", "f0", "f1"]), tmp_path / "new.parquet")
    assert np.array_equal(features(unlabelled(tmp_path / "new.parquet", training)), X)
    write_parquet(wide_table(X, Y).select(["f2", "f0"]), tmp_path / "new.parquet")
    with pytest.raises(DataError, match=r"no column 'f1', which .*train.parquet has"):
        unlabelled(tmp_path / "new.parquet", training)


def test_whoever_trains_still_needs_labels(tmp_path):
    np.savez(tmp_path / "rows.npz", X=X)
    with pytest.raises(DataError, match=r"no column 'y' for data.label"):
        open_source(str(tmp_path / "rows.npz"), DataConfig(train=str(tmp_path / "rows.npz")))
