"""Files are written whole or not at all, and read only if they are files."""

from __future__ import annotations

import errno
import os

import pytest

from distsgd.system import files
from distsgd.system.files import open_regular, read_file, write_atomically


def test_a_failed_write_leaves_the_old_content_and_no_temporary_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fails(*_):
        raise OSError(errno.EIO, "Input/output error")

    for call in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(files.os, call, fails)
            with pytest.raises(OSError, match="Input/output error"):
                write_atomically(path, b"new")
        assert path.read_bytes() == b"old"
        assert [path.name for path in tmp_path.iterdir()] == ["file"]
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["folder", "pipe", "endless device"])
def test_what_is_no_file_is_not_read_and_not_waited_for(tmp_path, kind):
    path = tmp_path / "odd"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    before = len(os.listdir("/proc/self/fd"))
    expected = "Is a directory" if kind == "folder" else "not a regular file"
    for read in (read_file, open_regular):
        with pytest.raises(OSError, match=expected):
            read(path)
    if kind != "folder":
        with pytest.raises(OSError, match=expected):
            open_regular(path, "a+b")
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_file(path, max_bytes=5) == b"12345"
    with pytest.raises(OSError, match="5 bytes, where 4 were expected at most"):
        read_file(path, max_bytes=4)
