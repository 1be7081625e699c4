"""How a CSV file is written: separator, decimal mark and header, found out from a sample of its text."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice

SEPARATORS = (",", ";", "\t", "|")
"""Separators that are found out, the likelier one first."""

SAMPLE_ROWS = 50
SAMPLE_CELLS = 20_000

NULLS = (
    *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN"),
    *("N/A", "NA", "NULL", "NaN", "n/a", "nan", "null"),
)
"""Spellings of a missing value: those of pyarrow, which pandas reads as missing, too."""

LIKE_NULLS = frozenset(("?", "-", "--", ".", "*", "none", "missing", "unknown", *(null.lower() for null in NULLS)))
"""What may stand for a missing value, in lower case."""

_EXCEL_HINT = re.compile(r'"?sep=(.)"?\r?\n')


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How a CSV file is written; the defaults are those of an ordinary one."""

    separator: str = ","
    decimal: str = "."
    header: bool = True
    """Whether the first row holds the names of the columns."""

    encoding: str = "utf-8"
    skipped: int = 0
    """Rows before all others that hold neither names nor values: Excel's `sep=;`, a title above the table."""

    titles: int = field(default=0, compare=False)
    """How many of those are a title."""

    unsure: str | None = field(default=None, compare=False)
    """A number like all others with a point, such as `1.234`, if that may be a thousand and more."""

    @property
    def number(self) -> str:
        """A regular expression for a number without marks between thousands."""
        mark = re.escape(self.decimal)
        return rf"[+-]?(\d+{mark}?\d*|{mark}\d+)([eE][+-]?\d+)?|[+-]?(inf|Inf|INF|infinity|Infinity)"

    @property
    def grouped(self) -> str:
        """A regular expression for a number with marks between thousands."""
        return rf"[+-]?[1-9]\d{{0,2}}([{self.marks}]\d{{3}})+({re.escape(self.decimal)}\d+)?"

    @property
    def marks(self) -> str:
        """What may stand between thousands: the mark that is not the decimal one, an apostrophe, a space."""
        return ("," if self.decimal == "." else ".") + "'\u2019 \u00a0\u202f"

    @cached_property
    def _any_number(self) -> re.Pattern[str]:
        return re.compile(rf"\s*({self.number}|{self.grouped})\s*")

    def is_number(self, cell: str) -> bool:
        """Return whether a cell is a number; spaces around it do not matter."""
        return self._any_number.fullmatch(cell) is not None

    def rows(self, text: str) -> Iterator[list[str]]:
        """Yield the cells of each row that is not blank, without the skipped ones."""
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=self.separator)
        return islice((row for row in reader if row), self.skipped, None)


POINT, COMMA = Dialect(), Dialect(decimal=",")


def sniff(
    sample: str,
    *,
    separator: str | None = None,
    decimal: str | None = None,
    header: bool | None = None,
    known: Collection[str] = (),
) -> Dialect:
    """Return the dialect of a text whose beginning, of whole rows, is `sample`; what is given is not found out.

    `known` are names that, found in the first row, make it a header.
    """
    hint = _EXCEL_HINT.match(sample)
    if hint is not None:
        sample, separator = sample[hint.end() :], separator or hint[1]
    separator = separator or _separator(sample)
    rows = sample_rows(sample, separator)
    found = Dialect(separator=separator, decimal=decimal or _decimal(rows, separator))
    titles = _titles(rows, found, known) if header is None else 0
    rows = rows[titles:]
    return Dialect(
        separator=separator,
        decimal=found.decimal,
        header=_has_header(rows, found, known) if header is None else header,
        skipped=int(hint is not None) + titles,
        titles=titles,
        unsure=_unsure(rows) if separator != "," and found.decimal == "." and decimal is None else None,
    )


def sample_rows(sample: str, separator: str) -> list[list[str]]:
    """Return the first rows as they are with a separator; none if the csv module cannot read them."""
    rows: list[list[str]] = []
    try:
        for row in islice(Dialect(separator=separator).rows(sample), SAMPLE_ROWS):
            rows.append(row)
            if len(rows) * len(row) > SAMPLE_CELLS:
                break
    except csv.Error:
        return []
    return rows


def _separator(sample: str) -> str:
    """Return the separator with which the most rows are equally wide and, among those, the cells make sense."""
    tried = {s: sample_rows(sample, s) for s in SEPARATORS if s == SEPARATORS[0] or s in sample}
    evenness = {s: _evenness(rows) for s, rows in tried.items()}
    best = [s for s in tried if evenness[s] == max(evenness.values())]
    return best[0] if len(best) == 1 else max(best, key=lambda s: _sense(tried[s], s))


def _evenness(rows: Sequence[Sequence[str]]) -> float:
    """Return the share of the rows that have the commonest number of cells; 0 if that is one cell."""
    if not rows:
        return 0.0
    width, count = Counter(map(len, rows)).most_common(1)[0]
    return count / len(rows) if width > 1 else 0.0


def _sense(rows: Sequence[Sequence[str]], separator: str) -> float:
    """Return the share of the cells that are numbers, less that of those that another separator would cut."""
    dialects = (POINT,) if separator == "," else (POINT, COMMA)
    others = [other for other in SEPARATORS if other != separator]
    cells = [cell for row in rows for cell in row]
    numbers = [any(d.is_number(cell) for d in dialects) for cell in cells]
    cut = sum(not n and any(o in cell for o in others) for cell, n in zip(cells, numbers, strict=True))
    return (sum(numbers) - cut) / max(1, len(cells))


def _decimal(rows: Sequence[Sequence[str]], separator: str) -> str:
    """Return the decimal mark that more cells have; `1,234` may have either, and has a comma if no other cell says."""
    if separator == "," and not any("," in cell for row in rows for cell in row):
        return "."  # only quotes would hide a comma
    commas = points = either_comma = either_point = 0
    for row in rows:
        for cell in row:
            if "," in cell or "." in cell:
                comma, point = COMMA.is_number(cell), POINT.is_number(cell)
                commas += comma and not point
                points += point and not comma
                either_comma += comma and point and "," in cell
                either_point += comma and point and "." in cell
    if commas != points:
        return "," if commas > points else "."
    return "," if separator != "," and either_comma and not either_point else "."


def _unsure(rows: Sequence[Sequence[str]]) -> str | None:
    """Return one of the numbers with a point if all of them may have it between thousands."""
    cells = [cell for row in rows for cell in row if "." in cell and POINT.is_number(cell)]
    return cells[0] if cells and all(map(COMMA.is_number, cells)) else None


def _titles(rows: Sequence[Sequence[str]], dialect: Dialect, known: Collection[str]) -> int:
    """Return how many rows, each of one cell or none, stand above a row of names with numbers below it."""
    count = next((i for i, row in enumerate(rows) if sum(bool(cell.strip()) for cell in row) > 1), 0)
    if not count or any(name in known for row in rows[:count] for name in row):
        return 0
    names, below = rows[count], rows[count + 1 :]
    if not all(name.strip() and not dialect.is_number(name) for name in names):
        return 0
    columns = [[row[i] for row in below if i < len(row)] for i in range(len(names))]
    return count if any(_names_numbers(n, cells, dialect) for n, cells in zip(names, columns, strict=True)) else 0


def _has_header(rows: Sequence[Sequence[str]], dialect: Dialect, known: Collection[str]) -> bool:
    """Return whether the first row holds names."""
    if not rows:
        return True
    first, rest = rows[0], rows[1:]
    if any(name in known for name in first):
        return True
    numbers = [cell for cell in first if dialect.is_number(cell)]
    if len(numbers) > 2 and any(numbers == [str(i + start) for i in range(len(numbers))] for start in (0, 1)):
        return True  # numbered columns, as a data frame without names has them
    columns = [[row[i] for row in rest if i < len(row)] for i in range(len(first))]
    if any(_names_numbers(name, cells, dialect) for name, cells in zip(first, columns, strict=True)):
        return True
    if numbers:
        return False
    # All columns are text: a first row each word of which comes again below it is one row of many.
    return not (rest and all(name in cells for name, cells in zip(first, columns, strict=True)))


def _names_numbers(name: str, cells: Sequence[str], dialect: Dialect) -> bool:
    """Return whether a first cell is a word, and most of those below it are numbers."""
    if dialect.is_number(name) or name.strip().lower() in LIKE_NULLS:
        return False
    filled = [cell for cell in cells if cell.strip().lower() not in LIKE_NULLS]
    count = sum(map(dialect.is_number, filled))
    return count > 0 and count >= 0.8 * len(filled)
