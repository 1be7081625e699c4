"""A Parquet or CSV file that is computed part by part, and is the same to the last byte after any kill.

Finished parts lie in a hidden folder beside the file until all of them are there; then they are joined into it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from distsgd.core.names import shortened
from distsgd.data import csv_output
from distsgd.data.datafile import reading
from distsgd.errors import DataError
from distsgd.system.files import read_file, sync_folder, temporary_name, write_atomically

IDENTITY, LOCK = "identity.json", ".lock"
"""Files of the folder: what the parts were computed from, and the lock of the process that computes them."""

WRITTEN: dict[str, Any] = {"compression": "zstd", "write_page_checksum": True}
"""How Parquet is written: zstd, and page checksums, by which a damaged part is found."""


@dataclass(frozen=True)
class Parts:
    """The parts that are finished: the first `done` ones."""

    path: Path
    """The file that they become."""
    folder: Path
    schema: pa.Schema
    """The columns as Parquet holds them."""
    done: int

    def write(self, number: int, rows: pa.Table) -> None:
        """Store a part, at once or not at all, even if the machine crashes."""
        sink = pa.BufferOutputStream()
        parquet.write_table(rows.cast(self.schema), sink, **WRITTEN)
        with writing(self.path):
            write_atomically(self._part(number), sink.getvalue().to_pybytes())

    def join(self, count: int) -> None:
        """Write the file, a row group of Parquet for each of `count` parts, and remove the parts."""
        temporary = temporary_name(self.path)
        with writing(self.path):
            try:
                with self._writer(temporary) as writer:
                    for number in range(count):
                        with reading(str(self._part(number)), "Parquet", f"remove the folder {self.folder}"):
                            rows = parquet.read_table(self._part(number), page_checksum_verification=True)
                        writer.write_table(rows, row_group_size=max(1, len(rows)))
                with open(temporary, "rb") as file:
                    os.fsync(file.fileno())
                os.replace(temporary, self.path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
            sync_folder(self.path.parent)
        shutil.rmtree(self.folder)

    def _writer(self, path: Path) -> contextlib.AbstractContextManager[Any]:
        if self.path.suffix.lower() == csv_output.ENDING:
            return csv_output.writer(path, self.schema)
        return parquet.ParquetWriter(path, self.schema, **WRITTEN)  # type: ignore[no-any-return]

    def _part(self, number: int) -> Path:
        return self.folder / f"{number:08}.parquet"


@contextlib.contextmanager
def parts_of(path: Path, schema: pa.Schema, identity: Mapping[str, Any]) -> Iterator[Parts]:
    """Yield the parts of a file that an earlier process has finished, if `identity` was the same, else none.

    The file becomes Parquet or, if its name ends in `.csv`, CSV.

    DataError if the file cannot be written there, another process is computing it, or Parquet cannot hold a column.
    """
    folder = path.with_name(f".{path.name}.parts")
    stored = as_stored(schema)
    text = json.dumps(dict(identity), sort_keys=True).encode()
    with writing(path):
        folder.mkdir(exist_ok=True)
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"another process is writing {str(path)!r}; wait for it to finish, or stop it") from None
        with writing(path):
            known = read_file(folder / IDENTITY) if (folder / IDENTITY).exists() else None
            if known != text:
                for entry in folder.iterdir():
                    if entry.name != LOCK:
                        entry.unlink()
                write_atomically(folder / IDENTITY, text)
            for leftover in folder.glob(".*.tmp"):
                leftover.unlink()
            names = {entry.name for entry in folder.iterdir()}
        done = next(number for number in range(len(names) + 1) if f"{number:08}.parquet" not in names)
        yield Parts(path, folder, stored, done)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what a full disk or a folder without permission raises into a DataError."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{str(path)!r} cannot be written: {error.strerror or error}; make room or give another place, and run the "
            "same command again: it goes on where it was"
        ) from None


def as_stored(schema: pa.Schema) -> pa.Schema:
    """Return the schema that a Parquet file of such rows has when it is read.

    Parquet has no seconds, no dates in milliseconds and no dictionaries of numbers, for example: such columns become
    milliseconds, dates and numbers. DataError for a column of a type that it cannot hold.
    """
    for field in schema:
        try:
            _read_back(pa.schema([field]))
        except (pa.ArrowException, NotImplementedError) as error:
            raise DataError(
                f"column {shortened(field.name)!r} is {str(field.type)[:100]}, which Parquet cannot hold "
                f"({str(error)[:100]}); leave it out of --keep, or cast it"
            ) from None
    return _read_back(schema)


def _read_back(schema: pa.Schema) -> pa.Schema:
    sink = pa.BufferOutputStream()
    parquet.write_table(schema.empty_table(), sink, **WRITTEN)
    return parquet.read_schema(pa.BufferReader(sink.getvalue()))
