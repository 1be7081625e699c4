"""The interface of data files, and the reporting of errors from the libraries that read them."""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from typing import Protocol

import pyarrow as pa

from distsgd.errors import DataError


class DataFile(Protocol):
    """A data file that was opened once to look at its schema; it is opened again for every reading of its rows.

    A new format is a class like this one, and an entry in `formats.FORMATS`. For example, JSON lines, a row each,
    whose types pyarrow finds by reading the file:

        @dataclass(frozen=True)
        class JsonLinesFile:
            path: str
            schema: pa.Schema
            num_rows: int

            @classmethod
            def open(cls, path):
                with reading(path, "JSON lines"):
                    table = pyarrow.json.read_json(path)
                return cls(path, table.schema, table.num_rows)

            def batches(self, columns, max_rows):
                with reading(self.path, "JSON lines"):
                    table = pyarrow.json.read_json(self.path)
                yield from table.select(list(columns)).to_batches(max_rows)

        FileFormat("JSON lines", suffixes=(".jsonl",), open=JsonLinesFile.open)

    A real one would read `batches` in blocks, so that a large file is not held in memory twice.
    """

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
        """The number of rows that the file claims to have; it is checked when the rows are read."""
        ...

    def batches(self, columns: Sequence[str], max_rows: int) -> Iterator[pa.RecordBatch]:
        """Yield the rows in order, in batches of at most `max_rows`, with at least the named columns."""
        ...


FAILURES = (pa.ArrowException, OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What pyarrow, zipfile (RuntimeError: encrypted, or a compression it does not know) and NumPy raise on bad files."""


DAMAGED = "it is damaged or was cut short: write it again"
"""What to do about a binary file that cannot be read."""


@contextlib.contextmanager
def reading(path: str, form: str, remedy: str = DAMAGED) -> Iterator[None]:
    """Turn what a damaged or unreadable file makes a library raise into a DataError of one line."""
    try:
        yield
    except FAILURES as error:
        problem = next(iter(str(error).splitlines()), type(error).__name__)
        if isinstance(error, PermissionError):
            raise DataError(f"{path} cannot be read: {error.strerror}") from None
        if "Expected all lists to be of size" in problem:  # Parquet stores a null as an empty list
            raise DataError(
                f"{path}: a list column holds a null or a list of another length; leave such rows out"
            ) from None
        raise DataError(f"{path} cannot be read as {form} ({problem[:200]}); {remedy}") from None


def with_text_names(schema: pa.Schema) -> pa.Schema:
    """Return a schema all of whose names are text; ValueError if one is not, which pyarrow finds when it is asked."""
    for field in schema:
        _ = field.name, str(field.type)
    return schema
