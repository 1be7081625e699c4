"""CSV files, whose dialect and column types are found out by reading them."""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from distsgd.config import DataConfig
from distsgd.data import csvtext
from distsgd.data.csvdialect import NULLS, Dialect, sample_rows, sniff
from distsgd.data.csvtypes import ColumnTypes, without_marks
from distsgd.data.datafile import Doubt, reading
from distsgd.data.remedies import new_name
from distsgd.errors import DataError

REMEDY = "correct that row"

THREADED_BYTES = 2**20

UNNAMED = "Unnamed: "
"""How the name of a column begins that has none; its place, from 0, follows."""


@dataclass(frozen=True)
class CsvFile:
    """A CSV file, and the names and types that its columns are read as."""

    path: str
    dialect: Dialect
    schema: pa.Schema
    num_rows: int
    label: str
    """The column whose text is never a missing value, since a class may be called NA."""

    given_nulls: tuple[str, ...] = ()
    """Spellings of a missing value besides NULLS."""

    foreign: str | None = None
    """Some text of a file that is not UTF-8, as it is read; None if it is UTF-8, or the encoding was given."""

    grouped: frozenset[str] = frozenset()
    """Columns of numbers with marks between thousands."""

    empty: tuple[str, ...] = ()
    """Columns without a name and without any value, which are left out: a separator at the end of each line."""

    doubts: Mapping[str, Doubt] = field(default_factory=dict)
    """Why columns that are mostly numbers are read as text."""

    @property
    def nulls(self) -> tuple[str, ...]:
        """Spellings of a missing value."""
        return (*NULLS, *self.given_nulls)

    @classmethod
    def open(cls, path: str, dialect: Dialect | None = None, config: DataConfig | None = None) -> CsvFile:
        """Read the file once, piece by piece, to find types that fit every row of it."""
        config = config or DataConfig()
        dialect = dialect or sniffed(path, config)[0]
        opened = cls(path, dialect, pa.schema([]), 0, config.labels[0], config.csv_null or ())
        try:
            return opened._with_types()
        except csvtext.NotUtf8Error as error:
            if config.csv_encoding is not None:
                raise DataError(f"{path} is not UTF-8 text; name its encoding with data.csv_encoding") from None
            dialect = replace(dialect, encoding=csvtext.fallback(error.text, path))
            word = csvtext.foreign_word(error.text, dialect.encoding)
        return replace(opened, dialect=dialect, foreign=word)._with_types()

    def _with_types(self) -> CsvFile:
        types, rows = None, 0
        with reading(self.path, "CSV", REMEDY):
            for names, text in self._pieces():
                types = types or ColumnTypes(names, self.dialect, self.nulls)
                table = self._parse(text, names, rows, {}) if text else None
                if table is not None:
                    types.add(table, rows)
                    rows += table.num_rows
        if types is None:
            raise DataError(f"{self.path} cannot be read as CSV (there are only blank lines); write it again")
        doubts = types.doubts(self.line, self.without_end)
        schema = types.schema()
        empty = [f.name for f in schema if rows and f.name.startswith(UNNAMED) and pa.types.is_null(f.type)]
        schema = pa.schema([f for f in schema if f.name not in empty])
        return replace(self, schema=schema, num_rows=rows, grouped=types.grouped(), empty=tuple(empty), doubts=doubts)

    def batches(self, columns: Sequence[str], max_rows: int) -> Iterator[pa.RecordBatch]:
        """Yield the rows in order, read as the types of the schema."""
        kinds = {name: self.schema.field(name).type for name in columns}
        types = {name: pa.string() if name in self.grouped else kind for name, kind in kinds.items()}
        rows = 0
        with reading(self.path, "CSV", REMEDY):
            for names, text in self._pieces():
                if text:
                    table = self._parse(text, names, rows, types)
                    rows += table.num_rows
                    yield from self._converted(table, kinds).to_batches(max_rows)

    def _converted(self, table: pa.Table, kinds: Mapping[str, pa.DataType]) -> pa.Table:
        """Return a table with text read as numbers where there are marks between thousands, or as missing values."""
        import pyarrow.compute as pc

        for number, (name, kind) in enumerate(kinds.items()):
            column = table.column(number)
            is_number = not pa.types.is_string(kind)
            if pa.types.is_string(column.type) and (is_number or name != self.label):
                missing = pc.is_in(column, value_set=pa.array(self.nulls))
                column = pc.if_else(missing, pa.scalar(None, pa.string()), column)
                if is_number:
                    column = without_marks(column, self.dialect).cast(kind)
                table = table.set_column(number, name, column)
        return table

    def without_end(self, rows: int) -> str | None:
        """Return the command that writes the first rows into a file of their own; None if no lines can be cut off."""
        path = Path(self.path)
        if path.suffix.lower() in csvtext.ENDINGS or self.dialect.encoding.startswith("utf-16"):
            return None
        target = shlex.quote(new_name(path.name))
        return f"head -n {self.line(rows) - 1} {shlex.quote(self.path)} > {target}"

    def line(self, row: int) -> int:
        """See TextFile.line."""
        return self.locate(row)[0]

    def locate(self, row: int) -> tuple[int, str]:
        """See TextFile.locate."""
        row += self.dialect.skipped + self.dialect.header
        line = 1
        for text in csvtext.chunks(self.path, self.dialect.encoding):
            rows = csvtext.simple_rows(text)
            if rows is not None and rows <= row:
                row, line = row - rows, line + rows
                continue
            for start, offset in csvtext.row_starts(text, line):
                if not row:
                    return start, text[offset:].splitlines()[0].decode()
                row -= 1
            line += len(text.splitlines())
        return line, ""

    def _pieces(self) -> Iterator[tuple[tuple[str, ...], bytes]]:
        """Yield the names of all columns, and the text of consecutive rows; nothing for a file of blank lines."""
        names: tuple[str, ...] = ()
        for text in csvtext.chunks(self.path, self.dialect.encoding):
            if not names:
                names, text = self._named(text)
                if not names:
                    continue
            yield names, text

    def _named(self, text: bytes) -> tuple[tuple[str, ...], bytes]:
        """Return the names of the columns, and `text`, the first rows, without those that hold no values."""
        starts = csvtext.row_starts(text, 1)
        offsets = [offset for _, (_, offset) in zip(range(self.dialect.skipped + 2), starts, strict=False)]
        if len(offsets) <= self.dialect.skipped:
            return (), b""
        begin = offsets[self.dialect.skipped]
        end = offsets[-1] if len(offsets) > self.dialect.skipped + 1 else len(text)
        try:
            first = next(
                csv.reader(io.StringIO(text[begin:end].decode(), newline=""), delimiter=self.dialect.separator)
            )
        except csv.Error as error:
            raise DataError(f"{self.path} cannot be read as CSV ({error}); {REMEDY}") from None
        if not self.dialect.header:
            return tuple(f"c{i}" for i in range(len(first))), text[begin:]
        # As pandas names columns that have no name, so that a frame that it read has the same ones.
        return tuple(name or f"{UNNAMED}{i}" for i, name in enumerate(first)), text[end:] if end < len(text) else b""

    def _parse(self, text: bytes, names: Sequence[str], before: int, types: Mapping[str, pa.DataType]) -> pa.Table:
        """Return rows as a table: of all columns, of types that fit them or, if `types` are given, of those columns."""
        from pyarrow import csv as arrow_csv

        bad: list[Any] = []

        def refuse(row: Any) -> str:
            bad.append(row)
            return "error"

        parse = arrow_csv.ParseOptions(
            delimiter=self.dialect.separator, newlines_in_values=True, invalid_row_handler=refuse
        )
        convert = arrow_csv.ConvertOptions(
            column_types=types,
            include_columns=list(types),
            null_values=list(self.nulls),
            decimal_point=self.dialect.decimal,
        )
        # With several threads, an error does not say which row it is; for little text they cost more than they gain.
        for threads in (True, False) if len(text) > THREADED_BYTES else (False,):
            bad.clear()
            read = arrow_csv.ReadOptions(block_size=len(text) + 1, use_threads=threads, column_names=list(names))
            try:
                return arrow_csv.read_csv(pa.py_buffer(text), read, parse, convert)
            except pa.ArrowInvalid:
                if not threads and not bad:
                    raise
        raise self._ragged(bad[0], before)

    def _ragged(self, row: Any, before: int) -> DataError:
        """Return the error for a row that is wider or narrower than the first one."""
        cells = "1 value" if row.actual_columns == 1 else f"{row.actual_columns:,} values"
        model = f"{'name' if self.dialect.header else 'value'}{'' if row.expected_columns == 1 else 's'} in the "
        model += "header" if self.dialect.header else "first row"
        shown = row.text if len(row.text) <= 60 else f"{row.text[:60]}..."
        return DataError(
            f"{self.path}, line {self.line(before + row.number - 1)}: {cells}, and there are {row.expected_columns:,} "
            f"{model}: {shown!r}; {REMEDY}, or name what stands between columns with data.csv_separator if it is not "
            f"{self.dialect.separator!r}"
        )


def sniffed(path: str, config: DataConfig, known: Collection[str] = ()) -> tuple[Dialect, list[str]]:
    """Return the dialect of a file, from its beginning and the configuration, and the cells of its first row."""
    with reading(path, "CSV", REMEDY), csvtext.opened(path) as file:
        head = file.read(csvtext.SAMPLE_BYTES)
    encoding = config.csv_encoding or csvtext.encoding_of(head)
    sample = head.decode(encoding, "replace").removeprefix("\ufeff")
    if len(head) == csvtext.SAMPLE_BYTES:
        raw = sample.encode()
        sample = raw[: csvtext.row_end(raw)].decode()
    found = sniff(
        sample,
        separator=config.csv_separator,
        decimal=config.csv_decimal,
        header=config.csv_header,
        known={*config.labels, *([config.weight] if config.weight else []), *(config.features or ()), *known},
    )
    rows = sample_rows(sample, found.separator)[found.skipped :]
    return replace(found, encoding=encoding), rows[0] if rows else []
