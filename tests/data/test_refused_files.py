"""Paths that name no data, and files that are of no format."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

import numpy as np
import pytest
from data_helpers import (
    list_table,
    refused,
    some_rows,
    write_arrow,
    write_parquet,
    write_stream,
)

X, Y = some_rows(count=40)


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
        (b"\xd0\xcf\x11\xe0", "Excel workbook"),
        (b"\x89HDF", "read_hdf"),
        (b"SQLite format 3\0", "SQLite"),
        (b"\x80\x04\x95", "pickle"),
        (b"hello", "(named .csv) CSV file; if it is CSV, rename it to rows.csv"),
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
