"""A data format is added as the docstring of DataFile says, and nothing else has to change."""

from __future__ import annotations

import inspect
import json
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.json
import pytest
from data_helpers import load_from, refused

from distsgd.data import formats
from distsgd.data.datafile import DataFile, reading
from distsgd.data.formats import FORMATS, FileFormat
from distsgd.data.inference import with_common_types


@pytest.fixture(autouse=True)
def json_lines(monkeypatch) -> None:
    """Enter the format of the docstring's example."""
    lines = inspect.getdoc(DataFile).split("\n")
    code = textwrap.dedent("\n".join(line for line in lines if line.startswith("    ") or not line))
    names = {"dataclass": dataclass, "pa": pa, "json": pyarrow.json, "reading": reading}
    example, entry = code.split("FileFormat(")
    # The class is kept where dataclasses look for its module.
    exec(example, names | {"__name__": __name__}, names)
    with_format = {**names, "FileFormat": FileFormat, "with_common_types": with_common_types}
    form = eval(f"FileFormat({entry.strip()}", with_format)
    monkeypatch.setattr(formats, "FORMATS", (*FORMATS, form))
    monkeypatch.setitem(formats.BY_SUFFIX, ".jsonl", form)


def write(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_rows_and_labels_are_read(tmp_path):
    write(tmp_path / "rows.jsonl", [{"a": i * 1.5, "label": "xy"[i % 2], "b": i} for i in range(20)])
    data = load_from(tmp_path / "rows.jsonl", val_fraction=0, normalize="none")
    assert data.feature_names == ("a", "b")
    assert data.train.X[3].tolist() == [4.5, 3]
    assert data.classes.tolist() == ["x", "y"]


def test_files_of_a_folder_get_common_types(tmp_path):
    write(tmp_path / "a.jsonl", [{"a": i, "label": i % 2} for i in range(20)])
    write(tmp_path / "b.jsonl", [{"a": i + 0.5, "label": i % 2} for i in range(20)])
    data = load_from(tmp_path, val_fraction=0, normalize="none")
    assert data.train.X[:, 0].tolist() == [*range(20), *(i + 0.5 for i in range(20))]


def test_what_is_wrong_is_named(tmp_path):
    write(tmp_path / "rows.jsonl", [{"a": i, "label": i % 2} if i != 7 else {"label": 1} for i in range(20)])
    assert "row 7 (counted from 0): null in column 'a'" in refused(tmp_path / "rows.jsonl")
    assert "JSON lines has none" in refused(tmp_path / "rows.jsonl", normalize="unit")
    (tmp_path / "rows.jsonl").write_text('{"a": 1, "label": 0}\n{"a": 2, "la\n')
    assert refused(tmp_path / "rows.jsonl").endswith("correct that row")
    (tmp_path / "rows").write_text("hello")
    assert "CSV or (named .jsonl) JSON lines file" in refused(tmp_path / "rows")
