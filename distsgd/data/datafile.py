"""The interface of data files, and the reporting of errors from the libraries that read them."""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import pyarrow as pa

from distsgd.errors import DataError, Problem


class DataFile(Protocol):
    """A data file that was opened once to look at its schema; it is opened again for every reading of its rows.

    A new format is a class like this one in a file of its own, and an entry in `formats.FORMATS`; nothing else has to
    change but the formats that docs/data.md lists. For example, JSON lines, an object for each row:

        @dataclass(frozen=True)
        class JsonLinesFile:
            path: str
            schema: pa.Schema
            num_rows: int

            @classmethod
            def open(cls, path):
                with reading(path, "JSON lines", "correct that row"):
                    table = json.read_json(path)
                return cls(path, table.schema, table.num_rows)

            def batches(self, columns, max_rows):
                types = pa.schema([self.schema.field(name) for name in columns])
                options = json.ParseOptions(explicit_schema=types, unexpected_field_behavior="ignore")
                with reading(self.path, "JSON lines", "correct that row"):
                    table = json.read_json(self.path, parse_options=options)
                yield from table.to_batches(max_rows)

        FileFormat(
            name="JSON lines", suffixes=(".jsonl",), open=JsonLinesFile.open, harmonize=with_common_types
        )

    pyarrow finds the types by reading the file, so `with_common_types` makes those of a folder's files agree; a format
    that declares types needs no `harmonize`, and a binary one has `magic`. A real one would read `batches` in blocks,
    so that a large file is not held in memory twice.
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


class Doubt(NamedTuple):
    """Why a column that is mostly numbers is read as text."""

    found: str
    """How many cells are no numbers, the first one, and its line."""

    remedy: str
    """What to do about it."""

    missing: str | None = None
    """The first such cell if it may stand for a missing value."""


@runtime_checkable
class TextFile(DataFile, Protocol):
    """What a data file that is text has besides, so that messages name lines and cells."""

    @property
    def doubts(self) -> Mapping[str, Doubt]:
        """Why columns that are mostly numbers are read as text: how many cells, the first one, its line; what to do."""
        ...

    def line(self, row: int) -> int:
        """Return the line, from 1, at which row `row` of [0, num_rows) begins; the header and blank lines count."""
        ...

    def locate(self, row: int) -> tuple[int, str]:
        """Return the same, and that line's text."""
        ...


def place(file: DataFile, row: int) -> str:
    """Return the file, and the place of one of its rows, as messages give it: a line of text, or a row's number."""
    where = f"line {file.line(row)}" if isinstance(file, TextFile) else f"row {row} (counted from 0)"
    return f"{file.path}, {where}"


def row_error(file: DataFile, row: int, problem: str) -> DataError:
    """Return the error for one of a file's rows, which shows a line of text unless it is long."""
    if not isinstance(file, TextFile):
        return DataError(f"{place(file, row)}: {problem}")
    line, text = file.locate(row)
    shown = f"; the line is {text!r}" if len(text) <= MAX_SHOWN_LINE else ""
    return DataError(f"{file.path}, line {line}: {problem}{shown}")


def doubt(file: DataFile, column: str) -> str | None:
    """Return why a column is read as text although it is mostly numbers, and what to do; None if it is not so."""
    reason = doubt_of(file, column)
    return f"{reason.found}: {reason.remedy}" if reason else None


def doubt_of(file: DataFile, column: str) -> Doubt | None:
    """Return the same as a reason and what to do."""
    return file.doubts.get(column) if isinstance(file, TextFile) else None


MAX_SHOWN_LINE = 60
"""Characters of a line that a message shows."""


@dataclass(frozen=True)
class TableFile:
    """Rows that are in memory already, as a file that need not be opened."""

    path: str
    """How messages name the rows."""

    table: pa.Table

    @property
    def schema(self) -> pa.Schema:
        """See DataFile.schema."""
        return self.table.schema

    @property
    def num_rows(self) -> int:
        """See DataFile.num_rows."""
        return int(self.table.num_rows)

    def batches(self, columns: Sequence[str], max_rows: int) -> Iterator[pa.RecordBatch]:
        """See DataFile.batches."""
        yield from self.table.select(list(columns)).to_batches(max_rows)


FAILURES = (pa.ArrowException, OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What pyarrow, zipfile (RuntimeError: encrypted, or a compression it does not know) and NumPy raise on bad files."""


DAMAGED = "it is damaged or was cut short: write it again"
"""What to do about a binary file that cannot be read."""


@contextlib.contextmanager
def as_problem(kind: str) -> Iterator[None]:
    """Make what is wrong one of the problems of rows, of which all are told at once."""
    try:
        yield
    except DataError as error:
        raise (error if error.problems else DataError(problems=[Problem(str(error), (), kind)])) from None


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
