"""Rows that are passed to `distsgd.train` in memory: the same rows, checks and digest as from a file."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_helpers import is_readable
from scipy import sparse

import distsgd
from distsgd.config import DataConfig
from distsgd.data import load
from distsgd.errors import ConfigError, DataError, RunDirectoryError
from distsgd.run.observer import Observer

QUICK = {"run.workers": 0, "tracking.enabled": False, "train.max_steps": 4, "model.hidden": 4}


def arrays(rows: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    X = np.random.default_rng(seed).normal(size=(rows, 3)).astype(np.float32)
    return X, (X[:, 0] > 0).astype(np.int64)


def frame(rows: int = 60, seed: int = 0) -> pd.DataFrame:
    X, y = arrays(rows, seed)
    return pd.DataFrame(X, columns=["a", "b", "c"]).assign(label=np.array(["no", "yes"])[y])


class Polars:
    """What a frame of polars offers: names, and a stream in which text is in another layout than in files."""

    def __init__(self, table: pa.Table) -> None:
        text = table.schema.get_field_index("label")
        self._table = table.set_column(text, "label", table.column("label").cast(pa.string_view()))
        self.columns = table.column_names

    def __arrow_c_stream__(self, requested_schema=None):
        return self._table.__arrow_c_stream__(requested_schema)


FRAMES = {
    "pandas": lambda df: df,
    "pandas, another index": lambda df: df.set_index(np.arange(len(df))[::-1] * 7),
    "pyarrow": lambda df: pa.Table.from_pandas(df, preserve_index=False),
    "a batch of pyarrow": lambda df: pa.RecordBatch.from_pandas(df, preserve_index=False),
    "polars": lambda df: Polars(pa.Table.from_pandas(df, preserve_index=False)),
    "a dict of arrays": lambda df: {name: df[name].to_numpy() for name in df},
    "a dict of lists": lambda df: {"label": df["label"].tolist()} | {n: df[n].to_numpy() for n in "abc"},
    "a frame and labels": lambda df: (df.drop(columns="label"), df["label"]),
    "a structured array": lambda df: (
        df.astype({"label": "S"}).to_records(index=False).astype([(name, "f4") for name in "abc"] + [("label", "U3")])
    ),
}


@pytest.mark.parametrize("name", FRAMES)
def test_a_frame_in_memory_is_the_same_rows_as_its_file(tmp_path, name):
    df = frame()
    df.to_parquet(tmp_path / "rows.parquet")
    expected = load(DataConfig(train=str(tmp_path / "rows.parquet")))
    assert load(DataConfig(), data=FRAMES[name](df)).digest == expected.digest


ARRAYS = {
    "arrays": lambda X, y: (X, y),
    "lists": lambda X, y: (X.tolist(), y.tolist()),
    "the other order of memory": lambda X, y: (np.asfortranarray(X), y),
    "the other order of bytes": lambda X, y: (X.astype(">f4"), y.astype(y.dtype.newbyteorder(">"))),
    "a mapping": lambda X, y: {"X": X, "y": y},
    "labels of pandas": lambda X, y: (X, pd.Series(y, index=np.arange(len(y)) + 5)),
}


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("text", [False, True])
def test_arrays_in_memory_are_the_same_rows_as_an_npz_file(tmp_path, name, text):
    X, y = arrays()
    if text:
        y = np.array(["no", "yes"])[y]
    np.savez(tmp_path / "rows.npz", X=X.astype(np.float64) if name == "lists" else X, y=y)
    data = ARRAYS[name](X, y)
    expected = load(DataConfig(train=str(tmp_path / "rows.npz")))
    assert load(DataConfig(), data=data).digest == expected.digest


def test_frames_and_columns_of_polars_itself_are_taken(own_folder):
    polars = pytest.importorskip("polars")
    df = frame().assign(colour=np.where(frame()["a"] > 0, "red", "blue"))
    theirs = polars.DataFrame({name: df[name].to_numpy() for name in df})
    expected = load(DataConfig(), data=df).digest
    categories = [polars.col(name).cast(polars.Categorical) for name in ("colour", "label")]
    for data in (theirs, theirs.with_columns(categories)):
        assert load(DataConfig(), data=data).digest == expected
    apart = load(DataConfig(), data=(df.drop(columns="label"), df["label"])).digest
    assert load(DataConfig(), data=(theirs.drop("label"), theirs["label"])).digest == apart
    values = {"run.workers": 0, "tracking.enabled": False, "train.epochs": 2, "run.dir": "run"}
    model = distsgd.train(values, data=theirs).model
    assert model.predict(theirs.drop("label")).tolist() == model.predict(df.drop(columns="label")).tolist()


def test_categories_of_polars_are_labels_as_text_is():
    table = pa.Table.from_pandas(frame(), preserve_index=False)
    values = pa.array(["no", "yes"], pa.string_view())
    codes = pa.array([["no", "yes"].index(label) for label in table["label"].to_pylist()], pa.uint32())
    categories = pa.DictionaryArray.from_arrays(codes, values)
    number = table.schema.get_field_index("label")
    expected = load(DataConfig(), data=table).digest
    assert load(DataConfig(), data=table.set_column(number, "label", categories)).digest == expected


def test_integer_pixels_stay_small_and_2d_columns_are_lists():
    pixels = np.arange(600, dtype=np.uint8).reshape(60, 10)
    rows = load(DataConfig(), data={"pixels": pixels, "label": pixels[:, 0] > 99}).train
    assert rows.dtype == np.uint8
    assert rows.features == 10


def test_training_in_memory_gives_the_bits_of_the_file_and_says_so(own_folder):
    df, held_out = frame(), frame(20, seed=1)
    df.to_parquet("rows.parquet")
    pq.write_table(pa.Table.from_pandas(held_out, preserve_index=False), "held-out.parquet")
    of_file = distsgd.train(QUICK, data="rows.parquet", val=own_folder / "held-out.parquet")
    result = distsgd.train(QUICK, data=df, val=held_out)
    assert result.weights_sha256 == of_file.weights_sha256
    assert result.run_dir.name.startswith("in-memory-")
    stored = json.loads((result.run_dir / "config.json").read_text())
    assert (stored["data"]["train"], stored["data"]["val"]) == ("in-memory", "in-memory")
    datasets = json.loads((result.run_dir / "tracking.json").read_text())["datasets"]
    assert [found["source"] for found in datasets] == ["in-memory", "in-memory"]
    assert set(result.model.predict(df.drop(columns="label"))) <= {"no", "yes"}


def test_resuming_needs_the_same_rows_again(own_folder):
    class Breaking(Observer):
        def logged(self, record):
            raise RuntimeError("interrupted")

    given = QUICK | {"train.log_every": 1, "run.dir": "run"}
    with pytest.raises(RuntimeError, match="interrupted"):
        distsgd.train(given, data=frame(), observer=Breaking())
    with pytest.raises(DataError, match="in memory; pass them again"):
        distsgd.train(given, resume=True)
    with pytest.raises(RunDirectoryError, match=r"^the rows passed to train\(\) are not those that the run in 'run' "):
        distsgd.train(given, data=frame(seed=2), resume=True)
    resumed = distsgd.train(given, data=frame(), resume=True)
    whole = distsgd.train(QUICK | {"train.log_every": 1}, data=frame())
    assert resumed.weights_sha256 == whole.weights_sha256


def test_a_path_and_rows_in_memory_are_not_both_taken():
    with pytest.raises(ConfigError, match=r"data\.train is 'x\.parquet', and data= was passed to train\(\) as well"):
        distsgd.train(QUICK | {"data.train": "x.parquet"}, data=frame())
    with pytest.raises(ConfigError, match=r"data\.val is 'x\.parquet', and val= was passed"):
        distsgd.train(QUICK | {"data.val": "x.parquet"}, val=frame())


X, Y = arrays()
REFUSED = {
    "an array alone": (X, "is of type ndarray; expected a data frame"),
    "a column alone": (frame()["a"], "is of type Series; expected a data frame"),
    "nothing like rows": (5, "is of type int; expected a data frame"),
    "images": ((X[:, :, None], Y), r"X is of shape \(60, 3, 1\) and type float32; expected numbers \(N, D\)"),
    "text as features": ((X.astype(str), Y), "X is of shape .* expected numbers"),
    "a missing label": ((X, Y[1:]), "X has 60 rows and y has 59"),
    "labels as a column": (
        (X, Y[:, None]),
        r"label column 'y' is fixed_size_list.*one class for each row.*of a single column ravel\(\)",
    ),
    "bytes": ((X, Y.astype("S1")), "y holds bytes; expected numbers or text"),
    "sparse": ((sparse.csr_array(X), Y), "X is sparse; expected a dense array"),
    "masked": ((np.ma.masked_array(X), Y), "X is a masked array"),
    "labels twice": ((frame(), Y), "X has a column 'label', which is the label's name"),
    "columns of two lengths": ({"a": X[:, 0], "label": Y[:9]}, "column 'a' has 60 rows and column 'label' has 9"),
    "lists of two lengths": ({"a": [[1], [1, 2]], "label": [0, 1]}, "."),
    "types mixed": (frame().assign(a=["x", 1] * 30), "cannot be converted .* column a"),
    "a name twice": (pd.concat([frame(), frame()[["a"]]], axis=1), "cannot be converted .*Duplicate column names"),
    "no label": (frame().drop(columns="label"), "no column 'label' for data.label"),
    "no rows": (frame()[:0], "has no rows"),
    "too few rows": (frame()[:2], "0.2 of 2 rows is no row to hold out"),
    "a missing value": (frame().assign(a=[None] + [1.0] * 59), r"row 0 \(counted from 0\): null in column 'a'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_is_refused_by_the_name_of_the_rows(name):
    data, message = REFUSED[name]
    with pytest.raises(DataError, match=message) as refused:
        load(DataConfig(), data=data)
    text = str(refused.value)
    assert is_readable(text)
    lines = text.splitlines()
    assert lines[len(lines) > 1].removeprefix("  - ").startswith("the data passed to train()")


def test_held_out_rows_in_memory_have_a_name_of_their_own():
    with pytest.raises(
        DataError, match=r"  - the held-out data passed to train\(\): column 'z' is not in the data passed"
    ):
        load(DataConfig(), data=frame(), held_out_data=frame().rename(columns={"a": "z"}))


def test_a_named_index_is_left_out_with_a_line():
    data = load(DataConfig(), data=frame().rename_axis("customer"))
    assert data.feature_names == ("a", "b", "c")
    assert any("the index 'customer' is left out; reset_index()" in notice for notice in data.notices)
