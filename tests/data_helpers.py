"""Small sets of rows, written in every format that can be read, and the messages of rows that are refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from distsgd.config import DataConfig
from distsgd.data import DataSet, load
from distsgd.errors import TITLES, DataError


def list_table(X: np.ndarray, y: Any, column: str = "X", label: str = "label") -> pa.Table:
    """Return rows with a fixed-size-list column of features."""
    values = pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(X).reshape(-1)), X.shape[1])
    return pa.table({column: values, label: pa.array(y)})


def wide_table(X: np.ndarray, y: Any, label: str = "label") -> pa.Table:
    """Return rows with a column for each feature: f0, f1, ..."""
    return pa.table({**{f"f{i}": pa.array(X[:, i]) for i in range(X.shape[1])}, label: pa.array(y)})


def write_arrow(table: pa.Table, path: Path) -> None:
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=7)


def write_stream(table: pa.Table, path: Path) -> None:
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=7)


def write_parquet(table: pa.Table, path: Path) -> None:
    pq.write_table(table, path, row_group_size=11)


def write_folder(table: pa.Table, path: Path, sizes: tuple[int, ...] = (5, 0, 30)) -> None:
    """Write a folder whose files lie on two levels, beside names that are to be passed over."""
    path.mkdir()
    (path / "sub").mkdir()
    (path / "_SUCCESS").write_bytes(b"")
    (path / ".part.parquet.crc").write_bytes(b"crc")
    (path / "README.md").write_text("rows")
    (path / "_metadata.parquet").write_bytes(b"not rows")
    start = 0
    names = ["a.parquet", "b.parquet", "c.parquet", "sub/a.parquet"]
    for name, size in zip(names, [*sizes, table.num_rows], strict=True):
        pq.write_table(table.slice(start, size), path / name)
        start += size


WRITERS: dict[str, tuple[str, Callable[[pa.Table, Path], None]]] = {
    "parquet": ("rows.parquet", write_parquet),
    "folder": ("rows", write_folder),
    "arrow": ("rows.arrow", write_arrow),
    "stream": ("rows.arrows", write_stream),
    "csv": ("rows.csv", lambda table, path: pyarrow.csv.write_csv(table, path)),
}


def load_from(path: Path | str, **values: Any) -> DataSet:
    return load(DataConfig(train=str(path), **{k: str(v) if isinstance(v, Path) else v for k, v in values.items()}))


def load_table(table: pa.Table, folder: Path, **values: Any) -> DataSet:
    """Return what is loaded after writing a table as Parquet."""
    write_parquet(table, folder / "table.parquet")
    return load_from(folder / "table.parquet", **values)


def some_rows(count: int = 60, width: int = 3, dtype: str = "float64", seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return X (count, width) of a type and y (count,) of the classes 0 to 3."""
    rng = np.random.default_rng(seed)
    kind = np.dtype(dtype)
    if kind.kind in "iu":
        X = rng.integers(np.iinfo(kind).min, np.iinfo(kind).max, (count, width), dtype=kind, endpoint=True)
    elif kind.kind == "b":
        X = rng.random((count, width)) < 0.5
    else:
        X = rng.normal(3, 2, (count, width)).astype(kind)
    return X, rng.permutation(np.arange(count) % 4)


def is_readable(message: str) -> bool:
    """Return whether a refusal is one line, or one that counts problems above a list of them and of what to do."""
    first, *lines = message.splitlines()
    counted = re.fullmatch(r"the rows cannot be trained on as they are; .* found:", first) is not None
    return counted == bool(lines) and all(line.startswith("  - ") or line in TITLES for line in lines)


def refused(path: Path | str, **values: Any) -> str:
    """Return the message of the refusal, whose lines have to be short: a list of problems, and what to do."""
    with pytest.raises(DataError) as error:
        load_from(path, **values)
    message = str(error.value)
    assert is_readable(message), message
    assert max(map(len, message.splitlines())) < 700, message
    return message


def refused_table(table: pa.Table, folder: Path, **values: Any) -> str:
    write_parquet(table, folder / "table.parquet")
    message = refused(folder / "table.parquet", **values)
    assert "table.parquet" in message
    return message
