"""CSV files as people have them: other dialects, encodings and compressions, and rows that are named by their line."""

from __future__ import annotations

import bz2
import gzip
import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from data_helpers import load_from, refused
from hypothesis import given, settings
from hypothesis import strategies as st

from distsgd.config import DataConfig
from distsgd.data import csvtext
from distsgd.data.csvfile import CsvFile
from distsgd.data.sources import open_source

PLAIN = "a,b,label\n1.5,2,x\n2.5,3,y\n3.5,4,x\n"
RAW = {"val_fraction": 0, "normalize": "none"}


def file_of(folder: Path, content: str | bytes, name: str = "rows.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def zstd(content: bytes) -> bytes:
    return pa.Codec("zstd").compress(content, asbytes=True)


@pytest.mark.parametrize(
    ("name", "compress"),
    [("rows.csv.gz", gzip.compress), ("rows.csv.bz2", bz2.compress), ("rows.csv.zst", zstd), ("rows.csv", zstd)],
)
def test_compressed_files_in_a_folder(tmp_path, name, compress):
    file_of(tmp_path, compress(PLAIN.encode()), name)
    file_of(tmp_path, compress(b"a,b\n1,2\n"), "rows.txt.gz")  # is passed over
    data = load_from(tmp_path, **RAW)
    assert data.train.X.tolist() == [[1.5, 2], [2.5, 3], [3.5, 4]]
    assert data.classes.tolist() == ["x", "y"]
    assert data.notices == ()


def test_compressed_files_that_are_damaged_or_not_csv(tmp_path):
    whole = gzip.compress(PLAIN.encode() * 500)
    assert "cannot be read as" in refused(file_of(tmp_path, whole[:-20], "rows.csv.gz"))
    assert "is empty" in refused(file_of(tmp_path, gzip.compress(b""), "rows.csv.gz"))
    assert "is not CSV" in refused(file_of(tmp_path, gzip.compress(b"\1\0\0\0"), "rows.csv.gz"))
    assert "is compressed with gzip" in refused(file_of(tmp_path, whole, "rows.parquet.gz"))
    assert "xz -d" in refused(file_of(tmp_path, b"\xfd7zXZ\0abc", "rows.csv.xz"))


GERMAN = "\ufeffGröße;Umsatz;Klasse\r\n1,75;1.234,50;groß\r\n1,60;987,00;klein\r\n1,80;12.000,25;groß\r\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (GERMAN.encode(), ""),
        (
            GERMAN[1:].encode("cp1252"),
            "; as cp1252 text, because it is not UTF-8: it has 'Größe' (data.csv_encoding names another encoding)",
        ),
        (GERMAN.encode("utf-16"), "; as UTF-16 text"),
        (GERMAN[1:].encode("utf-16-le"), "; as UTF-16 text"),
    ],
)
def test_what_german_excel_writes(tmp_path, content, said):
    data = load_from(file_of(tmp_path, content), label="Klasse", **RAW)
    assert data.feature_names == ("Größe", "Umsatz")
    assert data.train.X.tolist() == [
        [np.float32(1.75), 1234.5],
        [np.float32(1.6), 987],
        [np.float32(1.8), 12000.25],
    ]
    assert data.classes.tolist() == ["groß", "klein"]
    expected = "rows.csv: read with ';' between columns and a decimal comma; with marks between thousands in 'Umsatz'"
    assert data.notices == (expected + said,)


def test_text_that_is_not_utf8_far_from_the_beginning(tmp_path):
    content = "a,label\n" + "1,x\n" * 300_000 + "2,größer\n"
    data = load_from(file_of(tmp_path, content.encode("cp1252")), **RAW)
    assert data.classes.tolist() == ["größer", "x"]
    assert "it has 'größer'" in data.notices[0]


def test_encodings_that_are_given_or_cannot_be_told(tmp_path):
    path = file_of(tmp_path, "a,label\n1,高い\n2,低い\n".encode("shift_jis"))
    assert "name it with --set data.csv_encoding=" in refused(path)
    data = load_from(path, csv_encoding="shift_jis", **RAW)
    assert data.classes.tolist() == ["低い", "高い"]
    assert data.notices == ()
    assert "is not ascii text" in refused(path, csv_encoding="ascii")
    assert "is not UTF-8 text" in refused(path, csv_encoding="utf-8")


def test_no_header(tmp_path):
    rows = "".join(f"{i % 10}," + ",".join(str(i * j % 256) for j in range(784)) + "\n" for i in range(20))
    path = file_of(tmp_path, rows)
    message = refused(path)
    assert "no column 'label'" in message
    assert "columns named c0 to c784" in message
    data = load_from(path, label="c0", **RAW)
    assert data.train.X.shape == (20, 784)
    assert data.notices == (
        "rows.csv: read without a header line, columns named c0 to c784 (data.csv_header=true if it has one)",
    )
    assert "785 columns have the name '0'" in refused(path, label="0", csv_header=True)


def test_held_out_rows_without_the_header_of_the_training_rows(tmp_path):
    train = file_of(tmp_path, "a,label\n1,x\n2,y\n", "train.csv")
    val = file_of(tmp_path, "1,x\n2,y\n", "val.csv")
    assert "val.csv: read without a header line, columns named c0 to c1" in refused(train, val=val, normalize="none")


def test_options_that_are_given(tmp_path):
    path = file_of(tmp_path, "a:b:label\n?:1:x\n2:3:y\n")
    data = load_from(path, csv_separator=":", csv_null=("?",), features=("b",), **RAW)
    assert data.train.X.tolist() == [[1], [3]]
    assert "line 2: null in column 'a'" in refused(path, csv_separator=":", csv_null=("?",), val_fraction=0)
    tabs = file_of(tmp_path, "a\tlabel\n1\tx\n2\ty\n", "rows.tsv")
    assert load_from(tabs, csv_separator="tab", **RAW).digest == load_from(tabs, **RAW).digest


def test_excel_says_what_separates_columns(tmp_path):
    path = file_of(tmp_path, "sep=;\r\na;label\r\n1,5;x\r\n2,5;y\r\n")
    assert load_from(path, **RAW).train.X.tolist() == [[1.5], [2.5]]
    file_of(tmp_path, path.read_bytes() + b";x\r\n")
    assert "line 5: null in column 'a'" in refused(path, val_fraction=0)


def test_a_point_that_may_stand_between_thousands_is_said(tmp_path):
    path = file_of(tmp_path, "a;label\n1.500;x\n2.500;y\n")
    data = load_from(path, **RAW)
    assert data.train.X.tolist() == [[1.5], [2.5]]
    assert data.notices[0].endswith("with a decimal point in 1.500 (data.csv_decimal=, if it stands between thousands)")
    assert load_from(path, csv_decimal=",", **RAW).train.X.tolist() == [[1500], [2500]]


def test_files_of_a_folder_are_read_alike(tmp_path):
    file_of(tmp_path, "a;label\n1,5;x\n2,5;y\n", "1.csv")
    file_of(tmp_path, "a;label\n3;x\n4.000;y\n", "2.csv")
    file_of(tmp_path, "a;label\n", "3.csv")
    data = load_from(tmp_path, **RAW)
    assert data.train.X.ravel().tolist() == [1.5, 2.5, 3, 4000]
    assert "1.csv: read with ';' between columns and a decimal comma" in data.notices
    file_of(tmp_path, "5;6\n7;8\n", "4.csv")
    assert "4.csv does not, as it seems; say what they have with --set data.csv_header=true" in refused(tmp_path)


@pytest.mark.parametrize(
    ("bad", "hint"),
    [
        ("?", "'data.csv_null=?'"),
        ("2,5", "'data.csv_decimal=,'"),
        ("x", "use --set data.csv_null=x; or else correct it"),
    ],
)
def test_a_few_cells_that_are_no_numbers_are_named(tmp_path, bad, hint):
    rows = "".join(f'{i},"{bad if i in (40, 50) else i + 0.5}",x{i % 2}\n' for i in range(100))
    message = refused(file_of(tmp_path, f"a,b,label\n{rows}"))
    assert (
        f"column 'b' is text, and features are numbers: 2 values of 100 are no numbers, the first one '{bad}'"
        in message
    )
    assert "in line 42\n" in message
    assert hint in message


def test_lines_are_those_of_the_file_whatever_is_in_quotes(tmp_path):
    path = file_of(tmp_path, 'text,a,label\n"one\ntwo",1,x\n\n"three\r\nfour\n",2,x\nfive,,y\n')
    message = refused(path, features=("a",), val_fraction=0)
    assert "rows.csv, line 8: null in column 'a' (1 of 3 rows); the line is 'five,,y'" in message
    file_of(tmp_path, f"text,a,label\n{'long' * 20},NA,y\n1,2,x\n")
    assert "line 2: null in column 'a' (1 of 2 rows)\n" in refused(path, features=("a",), val_fraction=0)


def test_types_fit_all_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(csvtext.chunks, "__defaults__", (64,))
    columns = {
        "integer": [str(i) for i in range(99)],
        "fraction": [str(i if i < 70 else i + 0.5) for i in range(99)],
        "text": [f"word{i}" if i == 80 else str(i) for i in range(99)],
        "empty": [""] * 99,
        "late": ["" if i < 60 else str(i) for i in range(99)],
        "day": ["2020-01-02"] * 50 + ["2020-01-02 10:00:00"] * 49,
        "grouped": [f'"1,{i:03}"' for i in range(99)],
        "label": ["NA"] * 98 + ["x"],
    }
    rows = "\n".join(",".join(row) for row in zip(*columns.values(), strict=True))
    file = CsvFile.open(str(file_of(tmp_path, ",".join(columns) + "\n" + rows)))
    assert [str(kind) for kind in file.schema.types] == [
        *("int64", "double", "string", "null", "int64", "timestamp[s]", "double", "string")
    ]
    assert file.num_rows == 99
    assert [file.line(row) for row in range(99)] == list(range(2, 101))
    table = pa.Table.from_batches(file.batches(file.schema.names, 7))
    assert table.num_rows == 99
    assert table["fraction"].to_pylist() == [float(cell) for cell in columns["fraction"]]
    assert table["text"].to_pylist() == columns["text"]
    assert table["grouped"].to_pylist() == [1000.0 + i for i in range(99)]
    assert table["label"].to_pylist() == columns["label"]
    assert file.doubts["text"].found.startswith("1 value of 99 is no number, the first one 'word80' in line 82")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["ab", '"', '""', "\n", "\r\n", '"x\ny"', "é", "1,2"]), max_size=40), st.integers(1, 9))
def test_pieces_are_the_text_and_end_with_rows(tmp_path_factory, parts, size):
    text = "".join(parts).encode()
    path = file_of(tmp_path_factory.mktemp("text"), text)
    pieces = list(csvtext.chunks(str(path), "utf-8", size))
    assert b"".join(pieces) == text
    assert all(pieces)
    assert all(piece.endswith(b"\n") for piece in pieces[:-1])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["a", "b\nc", 'q"r', "s;t", ""]), st.integers(-9, 9)), min_size=1, max_size=20),
    st.sampled_from(list(itertools.product(",;\t|", "\r\n", (True, False)))),
)
def test_any_row_is_found_at_its_line(tmp_path_factory, rows, written):
    separator, _, quoted = written
    lines = [f"text{separator}number\n"]
    for text, number in rows:
        cell = '"' + text.replace('"', '""') + '"' if quoted or not text.isalpha() else text
        lines.append(f"{cell}{separator}{number}\n")
    path = file_of(tmp_path_factory.mktemp("rows"), "".join(lines))
    config = DataConfig(csv_separator=separator, csv_header=True)
    file = CsvFile.open(str(path), config=config)
    table = pa.Table.from_batches(file.batches(["text", "number"], 3))
    assert table["number"].to_pylist() == [number for _, number in rows]
    assert table["text"].to_pylist() == [text or None for text, _ in rows]
    before = [sum(line.count("\n") for line in lines[:i]) for i in range(1, len(lines))]
    assert [file.line(row) for row in range(len(rows))] == [count + 1 for count in before]


def test_separators_at_the_ends_of_lines(tmp_path):
    data = load_from(file_of(tmp_path, "a;label;\r\n1;x;\r\n2;y;\r\n"), **RAW)
    assert data.feature_names == ("a",)
    assert data.notices == ("rows.csv: read with ';' between columns; without 'Unnamed: 2', which is empty",)


def test_an_unnamed_column_has_the_name_that_pandas_gives_it(tmp_path):
    path = file_of(tmp_path, ",a,label\n0,5,x\n1,6,y\n")
    assert open_source(str(path), DataConfig()).schema.columns == ("Unnamed: 0", "a")
