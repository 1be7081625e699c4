"""Damaged files, and files that claim what they do not hold."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from data_helpers import (
    list_table,
    load_from,
    refused,
    some_rows,
    write_arrow,
    write_parquet,
    write_stream,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distsgd.data import filling
from distsgd.errors import DataError

X, Y = some_rows(count=40)


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
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
    for wrong, said in (
        (39, "says that it has 39 rows"),
        (41, "says that it has 41 rows"),
        (-40, "claims to have -40 rows"),
        (2**62, "GiB of memory"),
    ):
        lying = dataclasses.replace(parquet, open=lambda path, n=wrong: ParquetFile(path, opened.schema, n))
        monkeypatch.setattr(formats, "FORMATS", (lying,))
        assert said in refused(tmp_path / "rows.parquet")


def test_more_than_memory(tmp_path, monkeypatch):
    write_parquet(list_table(X, Y), tmp_path / "rows.parquet")
    monkeypatch.setattr(filling, "memory_limit", lambda: 512)
    assert "of memory, and this process may use" in refused(tmp_path / "rows.parquet")
