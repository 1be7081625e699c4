"""Every way in which rows cannot be trained on gives one clear message, and nothing but a DataError."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_helpers import (
    list_table,
    load_from,
    some_rows,
    wide_table,
    write_arrow,
    write_parquet,
    write_stream,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distsgd.data import filling
from distsgd.errors import DataError

X, Y = some_rows(count=40)


def refused(path: Path | str, **values: Any) -> str:
    """Return the message of the refusal, which has to be short and to name the file."""
    with pytest.raises(DataError) as error:
        load_from(path, **values)
    message = str(error.value)
    assert message.count("\n") <= 1, message
    assert len(message) < 500, message
    return message


def refused_table(table: pa.Table, folder: Path, **values: Any) -> str:
    write_parquet(table, folder / "table.parquet")
    message = refused(folder / "table.parquet", **values)
    assert "table.parquet" in message
    return message


# Paths and files


def test_missing_file_names_the_nearest(tmp_path):
    write_parquet(list_table(X, Y), tmp_path / "train.parquet")
    message = refused(tmp_path / "trian.parquet")
    assert "trian.parquet' does not exist (did you mean 'train.parquet'?)" in message
    assert "does not exist" in refused(tmp_path / "no" / "such.parquet")
    assert "digits" in refused("digit")


def test_missing_validation_file(tmp_path):
    assert "none.parquet' does not exist" in refused("digits", val=tmp_path / "none.parquet")


def test_a_file_taken_for_a_folder(tmp_path):
    write_parquet(list_table(X, Y), tmp_path / "rows.parquet")
    assert "Not a directory" in refused(tmp_path / "rows.parquet" / "part.parquet")


def test_glob_that_matches_nothing(tmp_path):
    (tmp_path / "folder.parquet").mkdir()
    assert "no file matches the glob" in refused(tmp_path / "*.parquet")


def test_folder_without_data_files(tmp_path):
    (tmp_path / "_part.parquet").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / ".hidden").mkdir()
    write_parquet(list_table(X, Y), tmp_path / ".hidden" / "rows.parquet")
    assert "holds no data file" in refused(tmp_path)


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "is a pipe, a socket or a device" in refused(tmp_path / "pipe")
    assert "cannot be a path" in refused("rows\0.parquet")
    assert "'' does not exist" in refused("")


def test_url():
    assert "not a local path" in refused("s3://bucket/rows.parquet")


@pytest.mark.parametrize("suffix", ["parquet", "arrow", "npz", "csv"])
def test_empty_file(tmp_path, suffix):
    (tmp_path / f"rows.{suffix}").write_bytes(b"")
    assert f"rows.{suffix} is empty (0 bytes)" in refused(tmp_path / f"rows.{suffix}")


@pytest.mark.parametrize("write", [write_parquet, write_arrow, write_stream])
def test_file_without_rows(tmp_path, write):
    write(list_table(X, Y).slice(0, 0), tmp_path / "rows")
    assert "rows has no rows" in refused(tmp_path / "rows")


def test_npz_and_csv_without_rows(tmp_path):
    np.savez(tmp_path / "rows.npz", X=X[:0], y=Y[:0])
    assert "rows.npz has no rows" in refused(tmp_path / "rows.npz")
    (tmp_path / "rows.csv").write_text("a,label\n")
    assert "rows.csv has no rows" in refused(tmp_path / "rows.csv")
    (tmp_path / "rows.csv").write_text("\n")
    assert "rows.csv cannot be read as CSV" in refused(tmp_path / "rows.csv")


@pytest.mark.parametrize("suffix", ["parquet", "arrow", "feather", "npz"])
def test_text_under_another_name(tmp_path, suffix):
    (tmp_path / f"rows.{suffix}").write_text("a,b,label\n1,2,0\n")
    message = refused(tmp_path / f"rows.{suffix}")
    assert "although its name says so: it begins with 'a,b,label" in message


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (b"\x1f\x8b\x08", "gzip"),
        (b"FEA1", "Feather file of version 1"),
        (b"PARE", "encrypted"),
        (b"\x93NUMPY\x01", "numpy.savez"),
        (b"hello", "expected a Parquet, Arrow IPC, .npz or (named .csv) CSV file"),
        (b"\0\0\0", "expected a Parquet"),
    ],
)
def test_formats_that_are_not_read(tmp_path, start, said):
    (tmp_path / "rows").write_bytes(start + b" and more bytes than that")
    assert said in refused(tmp_path / "rows")


def test_binary_file_called_csv(tmp_path):
    (tmp_path / "rows.csv").write_bytes(b"\1\0\0\0")
    assert "is not CSV" in refused(tmp_path / "rows.csv")


def test_two_formats_in_a_folder(tmp_path):
    write_parquet(list_table(X, Y), tmp_path / "a.parquet")
    write_arrow(list_table(X, Y), tmp_path / "b.arrow")
    assert "b.arrow is Arrow IPC and" in refused(tmp_path)


@pytest.fixture
def without_root() -> Iterator[None]:
    """Give up root's right to read everything, for the time of a test."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("what", ["file", "folder"])
def test_no_permission(tmp_path, request, what):
    write_parquet(list_table(X, Y), tmp_path / "rows.parquet")
    shut = tmp_path / "rows.parquet" if what == "file" else tmp_path
    shut.chmod(0)
    request.getfixturevalue("without_root")
    try:
        message = refused(tmp_path / "rows.parquet" if what == "file" else tmp_path)
    finally:
        if os.getuid():
            shut.chmod(0o700)
    assert "cannot be read: Permission denied" in message


# Damaged files


def damage_writers() -> dict[str, Callable[[Path], None]]:
    table = list_table(X.astype(np.float32), Y)
    return {
        "rows.parquet": lambda path: write_parquet(table, path),
        "rows.arrow": lambda path: write_arrow(table, path),
        "rows.arrows": lambda path: write_stream(table, path),
        "rows.npz": lambda path: np.savez(path, X=X, y=Y),
        "small.npz": lambda path: np.savez_compressed(path, X=X, y=Y),
    }


@pytest.mark.parametrize("name", damage_writers())
def test_truncated_anywhere(tmp_path, name):
    path = tmp_path / name
    damage_writers()[name](path)
    content = path.read_bytes()
    cuts = {1, 4, 7, 8, 9, 12, len(content) // 4, len(content) // 2, *range(len(content) - 64, len(content))}
    if name == "rows.arrows":
        cuts -= set(range(len(content) - 8, len(content)))  # the end mark of a stream may be missing
    for cut in sorted(cuts):
        path.write_bytes(content[:cut])
        assert name in refused(path), cut


@pytest.mark.parametrize("name", ["rows.arrow", "rows.arrows", "rows.parquet"])
def test_a_name_that_is_no_text(tmp_path, name):
    path = tmp_path / name
    damage_writers()[name](path)
    content = path.read_bytes()
    assert b"label" in content
    path.write_bytes(content.replace(b"label", b"la\xd0\xd0l"))
    with pytest.raises(DataError, match="decode byte 0xd0"):
        load_from(path)


@pytest.mark.parametrize("name", ["rows.parquet", "rows.arrow", "rows.arrows", "rows.npz", "small.npz"])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), byte=st.integers(1, 255))
def test_a_changed_byte_is_read_or_refused_but_never_a_crash(tmp_path, name, place, byte):
    path = tmp_path / name
    damage_writers()[name](path)
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= byte
    path.write_bytes(content)
    with contextlib.suppress(DataError):
        load_from(path)


def test_parquet_that_says_it_has_other_rows(tmp_path, monkeypatch):
    from distsgd.data import formats
    from distsgd.data.parquetfile import ParquetFile

    write_parquet(list_table(X, Y), tmp_path / "rows.parquet")
    opened = ParquetFile.open(str(tmp_path / "rows.parquet"))
    (parquet,) = (form for form in formats.FORMATS if form.name == "Parquet")
    for wrong in (39, 41):
        lying = dataclasses.replace(parquet, open=lambda path, n=wrong: ParquetFile(path, opened.schema, n))
        monkeypatch.setattr(formats, "FORMATS", (lying,))
        assert f"says that it has {wrong} rows" in refused(tmp_path / "rows.parquet")


def test_more_than_memory(tmp_path, monkeypatch):
    write_parquet(list_table(X, Y), tmp_path / "rows.parquet")
    monkeypatch.setattr(filling, "memory_limit", lambda: 512)
    assert "of memory, and this process may use" in refused(tmp_path / "rows.parquet")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["pipe", "socket", "broken link"])
def test_what_is_no_file_inside_a_folder_is_named_and_not_waited_for(tmp_path, kind):
    folder = tmp_path / "rows"
    folder.mkdir()
    write_parquet(list_table(X, Y), folder / "a.parquet")
    odd = folder / "b.parquet"
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as sock:
        if kind == "pipe":
            os.mkfifo(odd)
        elif kind == "socket":
            sock.bind(str(odd))
        else:
            odd.symlink_to(folder / "nowhere")
        message = refused(folder)
    assert str(odd) in message
    assert ("does not exist" if kind == "broken link" else "is a pipe, a socket or a device") in message


# Columns


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
        pa.array(["Ulm", "Bonn"]),
        pa.array(["Ulm", "Bonn"]).dictionary_encode(),
        pa.array([1, 2]).dictionary_encode(),
        pa.array([1, 2], pa.date32()),
        pa.array([1, 2], pa.timestamp("s")),
        pa.array([1, 2]).cast(pa.decimal128(21, 2)),
        pa.array([b"a", b"b"]),
        pa.array([{"a": 1}, {"a": 2}]),
        pa.array([["a"], ["b"]], pa.list_(pa.string(), 1)),
        pa.array([[[1]], [[2]]], pa.list_(pa.list_(pa.int8(), 1), 1)),
        pa.nulls(2),
    ],
    ids=lambda values: str(values.type),
)
def test_column_that_is_not_numbers(tmp_path, values):
    write_arrow(pa.table({"city": values, "label": [0, 1]}), tmp_path / "rows.arrow")
    message = refused(tmp_path / "rows.arrow", val_fraction=0)
    assert f"rows.arrow: column 'city' is {values.type}, and features are numbers" in message
    assert "data.features" in message


@pytest.mark.parametrize("kind", [pa.struct({"a\nb": pa.int8()}), pa.struct({f"a{i}": pa.int8() for i in range(9999)})])
@pytest.mark.parametrize("name", ["city", "x" * 100_000])
def test_the_message_is_a_line_whatever_names_there_are(tmp_path, kind, name):
    write_arrow(pa.table({name: pa.array([{}] * 4, kind), "label": [0, 1] * 2}), tmp_path / "ro\nws.arrow")
    with pytest.raises(DataError) as error:
        load_from(tmp_path / "ro\nws.arrow")
    message = str(error.value)
    assert message.splitlines() == [message]
    assert len(message) < 1_010
    assert "ro\\nws.arrow: column '" in message
    assert message.endswith("name the feature columns in data.features")


def test_lists_beside_numbers(tmp_path):
    table = list_table(X, Y).append_column("age", pa.array(Y))
    assert "column 'X' holds lists, and there are 1 more" in refused_table(table, tmp_path)
    assert load_from(tmp_path / "table.parquet", features=("X",)).schema.width == 3


def test_lists_of_several_lengths(tmp_path):
    table = pa.table({"X": [[1.0, 2.0], [3.0, 4.0], [5.0]], "label": [0, 1, 0]})
    message = refused_table(table, tmp_path)
    assert "row 2: a list of 1 values in column 'X', not 2" in message


@pytest.mark.parametrize("first", [[], None])
def test_lists_of_nothing(tmp_path, first):
    table = pa.table({"X": pa.array([first, [1.0]], pa.list_(pa.float64())), "label": [0, 1]})
    assert "the lists of column 'X' hold no values" in refused_table(table, tmp_path)


# Values


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [list_table, wide_table])
def test_value_that_is_not_finite(tmp_path, bad, dtype, shape):
    values = X.astype(dtype)
    values[23, 1] = values[31, 0] = bad
    name = "X[1]" if shape is list_table else "f1"
    assert f"table.parquet, row 23: {bad} in column '{name}'" in refused_table(shape(values, Y), tmp_path)


def test_first_bad_row_is_counted_within_its_file_and_found_in_either_part_of_the_split(tmp_path):
    for row in range(0, 40, 3):
        values = X.copy()
        values[row, 2] = np.nan
        (tmp_path / str(row)).mkdir()
        pq.write_table(wide_table(values, Y).slice(0, 15), tmp_path / str(row) / "a.parquet", row_group_size=4)
        pq.write_table(wide_table(values, Y).slice(15), tmp_path / str(row) / "b.parquet", row_group_size=4)
        place = f"a.parquet, row {row}: nan" if row < 15 else f"b.parquet, row {row - 15}: nan"
        assert place in refused(tmp_path / str(row))


@pytest.mark.parametrize("kind", [pa.float64(), pa.uint8(), pa.bool_()])
def test_null_in_a_column(tmp_path, kind):
    table = pa.table({"a": pa.array([1, 0, None, None]).cast(kind), "label": [0, 1, 0, 1]})
    assert "row 2: null in column 'a'" in refused_table(table, tmp_path)


def test_null_in_a_list(tmp_path):
    lists = pa.array([[1.0, 2.0], [3.0, None]], pa.list_(pa.float64(), 2))
    assert "row 1: null in column 'X', element 1" in refused_table(
        pa.table({"X": lists, "label": [0, 1]}), tmp_path, val_fraction=0
    )


@pytest.mark.parametrize("kind", [pa.list_(pa.float64(), 1), pa.list_(pa.float64())])
def test_null_in_place_of_a_list(tmp_path, kind):
    table = pa.table({"X": pa.array([[1.0], None], kind), "label": [0, 1]})
    write_arrow(table, tmp_path / "rows.arrow")
    assert "rows.arrow, row 1: null in column 'X'" in refused(tmp_path / "rows.arrow", val_fraction=0)
    # Parquet's reader refuses the whole batch of fixed-size lists, and says no row that could be relied upon.
    said = "row 1: null in column 'X'" if pa.types.is_list(kind) else "a list column holds a null"
    assert said in refused_table(table, tmp_path, val_fraction=0)


@pytest.mark.parametrize("row", [3, 39])
def test_value_too_large_for_float32(tmp_path, row):
    values = X.copy()
    values[row, 1] = 1e39
    message = refused_table(wide_table(values, Y), tmp_path, normalize="none")
    assert f"table.parquet, row {row}: the value in column 'f1' is too large for float32" in message


def test_held_out_value_too_large_for_float32_once_it_is_normalised(tmp_path):
    narrow = X.astype(np.float32) * np.float32(1e-20)
    write_parquet(wide_table(narrow, Y), tmp_path / "train.parquet")
    narrow[5, 2] = 3e38
    write_parquet(wide_table(narrow, Y), tmp_path / "val.parquet")
    message = refused(tmp_path / "train.parquet", val=tmp_path / "val.parquet")
    assert "val.parquet, row 5: the value in column 'f2' is too large" in message


def test_unit_of_floats_and_of_csv(tmp_path):
    assert "column 'f0' is float64, and data.normalize=unit needs integers" in refused_table(
        wide_table(X, Y), tmp_path, normalize="unit"
    )
    (tmp_path / "rows.csv").write_text("a,label\n1,0\n2,1\n")
    assert "CSV has none" in refused(tmp_path / "rows.csv", normalize="unit")


# Labels


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (pa.array([0, 1, -1, 0]), "row 2: label -1 in column 'label' is out of range; labels are integers from 0"),
        (pa.array([0, 2**31, 1, 0]), f"row 1: label {2**31} in column 'label' is out of range"),
        (pa.array([0, 2**64 - 1, 1, 0], pa.uint64()), f"row 1: label {2**64 - 1} in column 'label' is out of range"),
        (pa.array([0, 1, None, 0]), "row 2: null in the label column 'label'"),
        (pa.array(["a", "b", None, "a"]), "row 2: null in the label column"),
        (pa.array(["a", "b", None, "a"]).dictionary_encode(), "row 2: null in the label column"),
        (pa.array(["a", "b", "a", ""]), "row 3: empty label"),
        (pa.array([3, 3, 3, 3]), "every label in column 'label' is 3; expected two classes"),
        (pa.array(["a"] * 4), "every label in column 'label' is 'a'"),
        (pa.array([0.0, 1.0, 0.0, 1.0]), "label column 'label' is double; labels are integers or strings"),
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
    assert "rows.arrow, row 1: null in the label column 'label'" in refused(tmp_path / "rows.arrow")


def test_a_label_as_long_as_a_text(tmp_path):
    labels = pa.array(["ant", "b" * 4_000_000] * 20)
    table = list_table(X, Y).drop_columns(["label"]).append_column("label", labels)
    message = refused_table(table, tmp_path)
    assert "row 1: a label of 4,000,000 characters" in message
    assert "at most 1,000" in message


def test_label_outside_the_given_classes(tmp_path):
    table = pa.table({"a": np.arange(5.0), "label": [0, 2, 1, 7, 3]})
    message = refused_table(table, tmp_path, classes=3)
    assert "row 3: label 7 in column 'label' is out of range; data.classes=3 expects 0 to 2" in message


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
    assert "val.parquet, row 12: label 9 in column 'label' is not among the training rows'" in message


# Files that differ

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
    assert "b.csv: column 'x' is string" in message


# CSV and .npz


@pytest.mark.parametrize("row", ["3", "3,4,5,6"])
def test_ragged_csv(tmp_path, row):
    (tmp_path / "rows.csv").write_text(f"a,b,label\n1,2,0\n{row}\n5,6,1\n")
    message = refused(tmp_path / "rows.csv")
    assert "rows.csv cannot be read as CSV" in message
    assert "Row #3: Expected 3 columns" in message
    assert message.endswith("; correct that row")


def test_csv_cells_that_are_no_numbers(tmp_path):
    (tmp_path / "rows.csv").write_text("a,label\n1,0\n,1\n")
    assert "row 1: null in column 'a'" in refused(tmp_path / "rows.csv", val_fraction=0)
    (tmp_path / "rows.csv").write_text("a,label\n1,x\n2,\n")
    assert "row 1: empty label" in refused(tmp_path / "rows.csv", val_fraction=0)
    (tmp_path / "rows.csv").write_text("a,label\n1,x\ninf,y\n")
    assert "row 1: inf in column 'a'" in refused(tmp_path / "rows.csv", val_fraction=0)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"X": X}, "holds the arrays X; expected X (N, D) and y (N,)"),
        ({"y": Y}, "holds the arrays y;"),
        ({}, "holds the arrays none;"),
        ({"X": X[:, 0], "y": Y}, "X has shape (40,)"),
        ({"X": X[:, :, None], "y": Y}, "X has shape (40, 3, 1)"),
        ({"X": X, "y": Y[:, None]}, "y has shape (40, 1)"),
        ({"X": X, "y": np.array(3)}, "y has shape ()"),
        ({"X": X, "y": Y[:-1]}, "X has 40 rows and y has 39"),
        ({"X": X[:, :0], "y": Y}, "expected at least one feature"),
        ({"X": X.astype(object), "y": Y}, "array X is of type object"),
        ({"X": X, "y": Y.astype(object)}, "array y is of type object"),
        ({"X": X.astype(complex), "y": Y}, "array X is of type complex128"),
        ({"X": X.astype(np.longdouble), "y": Y}, "expected numbers"),
        ({"X": X.astype(str), "y": Y}, "column 'X' is fixed_size_list"),
        ({"X": X, "y": Y.astype("S2")}, "array y is of type |S2"),
        ({"X": X, "y": Y.astype("M8[s]")}, "array y is of type datetime64"),
        ({"X": X, "y": Y.astype(float)}, "label column 'y' is double"),
    ],
)
def test_npz_arrays(tmp_path, arrays, said):
    np.savez(tmp_path / "rows.npz", **arrays)
    message = refused(tmp_path / "rows.npz")
    assert said in message
    assert "rows.npz" in message


def test_npz_with_another_label(tmp_path):
    np.savez(tmp_path / "rows.npz", X=X, y=Y)
    assert "labels are the array y" in refused(tmp_path / "rows.npz", label="target")


def test_npz_whose_members_are_no_arrays(tmp_path):
    with zipfile.ZipFile(tmp_path / "rows.npz", "w") as archive:
        archive.writestr("X", b"")
        archive.writestr("y", b"")
    assert "holds the arrays X, y; expected" in refused(tmp_path / "rows.npz")


def npy(header: str, body: bytes = b"") -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + body


@pytest.mark.parametrize(
    ("X_member", "said"),
    [
        (npy("{'descr': '<f8', 'fortran_order': False, 'shape': (-40, 3)}"), "X has -40 rows"),
        (npy("{'descr': '<f8', 'fortran_order': False, 'shape': (40, 8589934592)}"), "expected at least one feature"),
        (npy("{'descr': '<f8', 'fortran_order': False, 'shape': (40, 3)}", bytes(100)), "ends before its last row"),
        (npy("{'descr': '<f8', 'fortran_order': False, 'shape': (40, 3)}", bytes(961)), "longer than its header says"),
        (
            npy("{'descr': '<f8', 'fortran_order': False, 'shape': (40, 2147483647)}"),
            "of memory, and this process may use",
        ),
        (npy("__import__('os').abort()"), "cannot be read as .npz"),
        (b"not an array", "cannot be read as .npz"),
        (b"", "cannot be read as .npz"),
    ],
)
def test_npz_whose_headers_are_wrong(tmp_path, X_member, said):
    with zipfile.ZipFile(tmp_path / "rows.npz", "w") as archive:
        archive.writestr("X.npy", X_member)
        archive.writestr("y.npy", npy("{'descr': '<i8', 'fortran_order': False, 'shape': (40,)}", bytes(320)))
    message = refused(tmp_path / "rows.npz")
    assert said in message


def test_npz_string_labels(tmp_path):
    np.savez(tmp_path / "rows.npz", X=X, y=np.array(["b", "a"] * 20))
    data = load_from(tmp_path / "rows.npz", val_fraction=0)
    assert data.classes.tolist() == ["a", "b"]
    assert data.train.y[:2].tolist() == [1, 0]
