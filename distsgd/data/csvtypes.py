"""Types of a CSV file's columns, found piece by piece: those of each piece, and one that fits all."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from distsgd.data.csvdialect import LIKE_NULLS, Dialect
from distsgd.data.datafile import Doubt
from distsgd.data.remedies import setting
from distsgd.errors import counted

DATE = r"^\s*\d{1,2}(\.\d{1,2}\.|/\d{1,2}/)(19|20)\d\d([ ,T]+\d{1,2}:\d\d(:\d\d)?)?\s*$"
"""A date whose day and month come first, such as 24.12.2025 or 12/24/2025, with or without a time."""

UNIT = r"^\s*([$€£¥]\s*)?(NUMBER)(\s*[%$€£¥])?\s*$"
"""A number with a sign that says what it is: a currency, a percentage."""


@dataclass
class _Column:
    kind: pa.DataType
    grouped: bool = False
    """Whether some numbers have marks between thousands."""

    numbers: int = 0
    others: int = 0
    """Cells that are neither a number nor missing."""

    first: tuple[int, str] | None = None
    """The first such cell, and its row."""

    dates: bool = True
    """Whether all such cells may be dates."""

    units: bool = True
    """Whether all such cells may be numbers with a unit."""


class ColumnTypes:
    """The types of columns that have the given names."""

    def __init__(self, names: Sequence[str], dialect: Dialect, nulls: Sequence[str]) -> None:
        self._names = names
        self._rows = 0
        self._columns = [_Column(pa.null()) for _ in names]
        self._nulls = pa.array(nulls)
        self._plain = rf"^\s*({dialect.number})\s*$"
        self._any = rf"^\s*({dialect.number}|{dialect.grouped})\s*$"
        self._unit = UNIT.replace("NUMBER", f"{dialect.number}|{dialect.grouped}")
        self._decimal = dialect.decimal

    def add(self, table: pa.Table, start: int) -> None:
        """Add the next rows, of types that fit them; the first one is row `start` of the file."""
        self._rows = start + table.num_rows
        for column, values in zip(self._columns, table.columns, strict=True):
            kind = values.type
            if pa.types.is_string(kind):
                kind = self._add_text(column, values, start)
            elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
                column.numbers += len(values) - values.null_count
            elif not pa.types.is_null(kind):
                column.others += len(values) - values.null_count
            column.kind = wider(column.kind, kind)

    def _add_text(self, column: _Column, values: pa.ChunkedArray, start: int) -> pa.DataType:
        """Count the numbers in text; return float64 if all is numbers, of which some have marks between thousands."""
        if column.others and not (column.numbers or column.dates or column.units):  # text: not looked at any more
            return pa.string()
        missing = pc.is_in(values, value_set=self._nulls)
        number = pc.match_substring_regex(values, self._any)
        other = pc.invert(pc.or_(missing, number))
        others = pc.sum(other).as_py() or 0
        column.numbers += pc.sum(pc.and_not(number, missing)).as_py() or 0
        column.others += others
        if others:
            if column.first is None:
                row = pc.index(other, True).as_py()
                column.first = (start + row, values[row].as_py())
            strange = values.filter(other)
            column.dates = column.dates and not column.numbers and _all_match(strange, DATE)
            column.units = column.units and _all_match(strange, self._unit)
            return pa.date32() if column.dates else pa.string()
        column.grouped = True
        return pa.float64()

    def schema(self) -> pa.Schema:
        """Return names and types of all columns."""
        return pa.schema([(name, c.kind) for name, c in zip(self._names, self._columns, strict=True)])

    def grouped(self) -> frozenset[str]:
        """Return the columns of numbers with marks between thousands."""
        pairs = zip(self._names, self._columns, strict=True)
        return frozenset(name for name, c in pairs if c.grouped and pa.types.is_floating(c.kind))

    def doubts(self, line: Callable[[int], int], without_end: Callable[[int], str | None]) -> dict[str, Doubt]:
        """Return, for each column of text that is mostly numbers, which cell makes it text, and what to do about it.

        `line` gives the line of a row, and `without_end` the command that keeps so many rows.
        """
        found: dict[str, Doubt] = {}
        for name, column in zip(self._names, self._columns, strict=True):
            if column.first is None or not pa.types.is_string(column.kind):
                continue
            row, value = column.first
            if column.units:
                found[name] = Doubt(
                    f"{counted(column.others, 'value')} of {column.numbers + column.others:,} "
                    f"{'has' if column.others == 1 else 'have'} a sign beside the number, the first one "
                    f"{_shown(value)} in line {line(row)}",
                    "take out the signs, as sed 's/[%$€£¥]//g' does",
                )
            elif column.numbers >= column.others:
                last = self._rows > 1 and row == self._rows - 1
                command = without_end(self._rows - 1) if last and value.strip().lower() not in LIKE_NULLS else None
                total = f"if that line is a total, leave it out with {command}" if command else None
                found[name] = Doubt(
                    f"{counted(column.others, 'value')} of {column.numbers + column.others:,} "
                    f"{'is no number' if column.others == 1 else 'are no numbers'}, the first one {_shown(value)} in "
                    f"line {line(row)}",
                    *((total,) if total else self._remedy(value)),
                )
        return found

    def _remedy(self, value: str) -> tuple[str, str | None]:
        """Return what to do about a cell, and the cell if it may stand for a missing value."""
        missing = f"if it stands for a missing value, use {setting('data.csv_null', [value])}"
        if value.strip().lower() in LIKE_NULLS or not any(c.isalnum() for c in value):
            return missing, value
        other = "." if self._decimal == "," else ","
        if re.fullmatch(rf"\s*[+-]?[\d.,]*[{other}]\d+\s*", value):
            return f"if that is a decimal mark, use --set 'data.csv_decimal={other}'", None
        return f"{missing}; or else correct it", value


def _all_match(values: pa.ChunkedArray, pattern: str) -> bool:
    """Return whether all texts match; the first one is looked at alone, because that mostly decides it."""
    return all(pc.all(pc.match_substring_regex(part, pattern)).as_py() for part in (values[:1], values[1:]))


def wider(kind: pa.DataType, other: pa.DataType) -> pa.DataType:
    """Return the type that the text of both types can be read as."""
    if kind == other or pa.types.is_null(other):
        return kind
    if pa.types.is_null(kind):
        return other
    kinds = {kind, other}
    for family in ([pa.int64(), pa.float64()], [pa.date32(), pa.timestamp("s"), pa.timestamp("ns")]):
        if kinds <= set(family):
            return max(kinds, key=family.index)
    return pa.string()


def without_marks(column: pa.ChunkedArray, dialect: Dialect) -> pa.ChunkedArray:
    """Return text of numbers without spaces and marks between thousands, and with a decimal point."""
    column = pc.replace_substring_regex(column, f"[\\s{dialect.marks}]", "")
    return pc.replace_substring(column, dialect.decimal, ".") if dialect.decimal != "." else column


def _shown(value: str) -> str:
    return repr(value if len(value) <= 40 else f"{value[:40]}...")
