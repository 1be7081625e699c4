"""What only CSV and .npz files can have wrong."""

from __future__ import annotations

import struct
import zipfile

import numpy as np
import pytest
from data_helpers import (
    load_from,
    refused,
    some_rows,
)

X, Y = some_rows(count=40)


@pytest.mark.parametrize(("row", "found"), [("3", "1 value"), ("3,4,5,6", "4 values")])
def test_ragged_csv(tmp_path, row, found):
    (tmp_path / "rows.csv").write_text(f"a,b,label\n1,2,0\n\n{row}\n5,6,1\n")
    message = refused(tmp_path / "rows.csv")
    assert f"rows.csv, line 4: {found}, and there are 3 names in the header: '{row}'; correct that row" in message
    assert "data.csv_separator" in message


def test_ragged_csv_far_from_the_beginning(tmp_path):
    (tmp_path / "rows.csv").write_text("a,label\n" + "1,x\n" * 400_000 + "3\n2,y\n")
    assert "rows.csv, line 400002: 1 value, and there are 2 names" in refused(tmp_path / "rows.csv")


def test_csv_cells_that_are_no_numbers(tmp_path):
    (tmp_path / "rows.csv").write_text("a,label\n1,0\n,1\n")
    assert "rows.csv, line 3: null in column 'a'" in refused(tmp_path / "rows.csv", val_fraction=0)
    (tmp_path / "rows.csv").write_text("a,label\n1,x\n2,\n")
    assert "rows.csv, line 3: empty label" in refused(tmp_path / "rows.csv", val_fraction=0)
    (tmp_path / "rows.csv").write_text("a,label\n1,x\ninf,y\n")
    assert "rows.csv, line 3: inf in column 'a'" in refused(tmp_path / "rows.csv", val_fraction=0)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"X": X}, "no column 'y' for data.label; the columns are 'X'"),
        ({"y": Y}, "holds the arrays 'y'; expected X (N, D) and y (N,)"),
        ({}, "holds the arrays none;"),
        ({"X": X[:, 0], "y": Y}, "X has shape (40,)"),
        ({"X": X[:, :, None], "y": Y}, "X has shape (40, 3, 1)"),
        ({"X": X, "y": Y[:, None, None]}, "y has shape (40, 1, 1)"),
        ({"X": X, "y": Y[:, None]}, "a label is one class for each row"),
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
        ({"X": X, "y": Y + 0.5}, "is not a whole number: this looks like regression"),
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


def test_zip_archives_that_are_not_npz(tmp_path):
    for name, said in (
        ("train.csv", "is a zip archive with 'train.csv' in it; unzip it"),
        ("[Content_Types].xml", "Excel"),
    ):
        with zipfile.ZipFile(tmp_path / "rows.zip", "w") as archive:
            archive.writestr(name, b"")
        assert said in refused(tmp_path / "rows.zip")


def test_npz_whose_members_are_no_arrays(tmp_path):
    with zipfile.ZipFile(tmp_path / "rows.npz", "w") as archive:
        archive.writestr("X", b"")
        archive.writestr("y", b"")
    assert "is a zip archive with 'X' in it" in refused(tmp_path / "rows.npz")


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
