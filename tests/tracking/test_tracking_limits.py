"""Data at the limits of what MLflow and JSON take: very many columns, and numbers that float32 cannot hold."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_helpers import list_table, some_rows
from tracking_helpers import assert_complete, train

pytestmark = pytest.mark.usefixtures("own_folder")


def wide(columns: int) -> list[str]:
    """Write rows with this many columns; return the columns' names."""
    X, y = np.random.default_rng(0).normal(size=(20, columns)).astype(np.float32), np.arange(20) % 2
    names = [f"a feature with quite a long name, number {i}" for i in range(columns)]
    pq.write_table(pa.table(dict(zip(names, X.T, strict=True)) | {"label": y}), "rows.parquet")
    return names


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_very_many_columns_get_to_mlflow_and_those_left_out_are_counted(tmp_path, empty_store):
    names = wide(25_000)
    options = {"data__train": "rows.parquet", "train__batch_size": 4, "train__max_steps": 2, "tracking__timeout_s": 120}
    result = train(tmp_path / "run", empty_store, **options)
    assert result.warnings == []
    run = assert_complete(empty_store, tmp_path / "run")
    for item in run.inputs.dataset_inputs:
        assert 1_000_000 < len(item.dataset.schema) <= 1_048_575
        *columns, note, label = [column["name"] for column in json.loads(item.dataset.schema)["mlflow_colspec"]]
        assert columns == names[: len(columns)]
        assert note == f"({25_000 - len(columns):,} more columns, left out)"
        assert label == "label"


def test_no_column_is_left_out_where_there_is_room(tmp_path, empty_store):
    names = wide(50)
    train(tmp_path / "run", empty_store, data__train="rows.parquet", train__batch_size=4, train__max_steps=2)
    run = assert_complete(empty_store, tmp_path / "run")
    (schema, _) = [json.loads(item.dataset.schema)["mlflow_colspec"] for item in run.inputs.dataset_inputs]
    assert [column["name"] for column in schema] == [*names, "label"]


@pytest.mark.parametrize("size", [1e39, 1e150])
@pytest.mark.parametrize("form", ["columns", "list"])
def test_float64_features_beyond_float32_are_logged_as_they_are(tmp_path, empty_store, size, form):
    X, y = some_rows(100, width=3)
    X = X * size
    table = list_table(X, y) if form == "list" else pa.Table.from_pandas(pd.DataFrame(X, columns=list("abc")))
    pq.write_table(table if form == "list" else table.append_column("label", pa.array(y)), "rows.parquet")
    result = train(tmp_path / "run", empty_store, data__train="rows.parquet")
    assert result.warnings == []
    assert_complete(empty_store, tmp_path / "run")
    example = np.array(json.loads((tmp_path / "run" / "tracking.json").read_bytes())["model"]["example"])
    for row in example:
        assert np.isclose(X, row, rtol=1e-5, atol=1e-6 * size).all(axis=1).any()
