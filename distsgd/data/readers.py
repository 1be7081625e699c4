"""One data file of each format, as a schema, a number of rows and a stream of record batches."""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from distsgd.data.files import Format
from distsgd.errors import DataError


class DataFile(Protocol):
    """A data file that was opened once to look at its schema; it is opened again for every reading of its rows."""

    @property
    def path(self) -> str:
        """The file's name, as messages give it."""
        ...

    @property
    def schema(self) -> pa.Schema:
        """Names and types of all columns."""
        ...

    @property
    def num_rows(self) -> int:
        """Rows by the file's own account, which is not to be trusted."""
        ...

    def batches(self, columns: Sequence[str], max_rows: int) -> Iterator[pa.RecordBatch]:
        """Yield the rows in order, in batches of at most `max_rows`, with at least the named columns."""
        ...


FAILURES = (pa.ArrowException, OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What pyarrow, zipfile (RuntimeError: encrypted, or a compression it does not know) and NumPy raise on bad files."""


@contextlib.contextmanager
def reading(path: str, form: Format) -> Iterator[None]:
    """Turn what a damaged or unreadable file makes a library raise into a DataError of one line."""
    try:
        yield
    except FAILURES as error:
        said = next(iter(str(error).splitlines()), type(error).__name__)
        if isinstance(error, PermissionError):
            raise DataError(f"{path} cannot be read: {error.strerror}") from None
        if "Expected all lists to be of size" in said:  # Parquet holds a null as a list of nothing
            raise DataError(
                f"{path}: a list column holds a null or a list of another length; leave such rows out"
            ) from None
        remedy = "replace_lost that row" if form == "CSV" else "it is damaged or was cut short: write it again"
        raise DataError(f"{path} cannot be read as {form} ({said[:200]}); {remedy}") from None


def _readable(schema: pa.Schema) -> pa.Schema:
    """Return a schema all of whose names are text; ValueError if one is not, which pyarrow finds when it is asked."""
    for field in schema:
        _ = field.name, str(field.type)
    return schema


@dataclass(frozen=True)
class ParquetFile:
    """A Parquet file. Checksums of its pages are verified where it has them."""

    path: str
    schema: pa.Schema
    num_rows: int

    @classmethod
    def open(cls, path: str) -> ParquetFile:
        """Read the file's footer."""
        with reading(path, "Parquet"), cls._open(path) as file:
            return cls(path, _readable(file.schema_arrow), file.metadata.num_rows)

    @staticmethod
    def _open(path: str) -> Any:
        from pyarrow import parquet

        # Without a buffer size, and with pre-buffering, a whole row group lies in memory beside its decoded rows.
        return parquet.ParquetFile(path, page_checksum_verification=True, pre_buffer=False, buffer_size=2**20)

    def batches(self, columns: Sequence[str], max_rows: int) -> Iterator[pa.RecordBatch]:
        """Yield the rows in order, decoded page by page."""
        with reading(self.path, "Parquet"), self._open(self.path) as file:
            for batch in file.iter_batches(max_rows, columns=list(columns)):
                batch.validate(full=True)
                yield batch


@dataclass(frozen=True)
class ArrowFile:
    """An Arrow IPC file, or stream: memory-mapped, so that uncompressed batches are not copied."""

    path: str
    schema: pa.Schema
    num_rows: int
    is_stream: bool

    @classmethod
    def open(cls, path: str) -> ArrowFile:
        """Read the schema, and count the rows of all batches."""
        with open(path, "rb") as file:
            is_stream = file.read(6) != b"ARROW1"
        with reading(path, "Arrow IPC"), pa.memory_map(path) as source:
            reader = pa.ipc.open_stream(source) if is_stream else pa.ipc.open_file(source)
            rows = sum(batch.num_rows for batch in _all_batches(reader, is_stream))
            return cls(path, _readable(reader.schema), rows, is_stream)

    def batches(self, columns: Sequence[str], max_rows: int) -> Iterator[pa.RecordBatch]:
        """Yield the rows in order, as views of the mapped file where it is not compressed."""
        with reading(self.path, "Arrow IPC"), pa.memory_map(self.path) as source:
            reader = pa.ipc.open_stream(source) if self.is_stream else pa.ipc.open_file(source)
            for batch in _all_batches(reader, self.is_stream):
                chosen = batch.select(list(columns))
                # Lengths and offsets inside the file are not to be trusted: a wrong one would be read past the map.
                chosen.validate(full=True)
                for start in range(0, chosen.num_rows, max_rows):
                    yield chosen.slice(start, max_rows)


def _all_batches(reader: pa.ipc.RecordBatchReader, is_stream: bool) -> Iterator[pa.RecordBatch]:
    if is_stream:
        yield from reader
    else:
        yield from (reader.get_batch(i) for i in range(reader.num_record_batches))


@dataclass(frozen=True)
class Digits:
    """The 1,797 handwritten digits that scikit-learn carries: 64 pixels of 0 to 16, as uint8."""

    path: str
    table: pa.Table

    @classmethod
    def open(cls) -> Digits:
        """Take the rows out of scikit-learn, which reads them from a file of its own."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        pixels = pa.FixedSizeListArray.from_arrays(pa.array(digits.data.astype(np.uint8).ravel()), 64)
        return cls("digits", pa.table({"pixels": pixels, "label": pa.array(digits.target)}))

    @property
    def schema(self) -> pa.Schema:
        """A fixed-size-list column `pixels` and a column `label`."""
        return self.table.schema

    @property
    def num_rows(self) -> int:
        """1,797."""
        return int(self.table.num_rows)

    def batches(self, columns: Sequence[str], max_rows: int) -> Iterator[pa.RecordBatch]:
        """Yield the rows in order."""
        yield from self.table.select(list(columns)).to_batches(max_rows)
