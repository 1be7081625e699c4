"""The CSV files of one path, read in the same way, and what the user is told about it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa

from distsgd.config import DataConfig
from distsgd.data.csvdialect import Dialect
from distsgd.data.csvfile import CsvFile, sniffed
from distsgd.errors import DataError

WORDS = {"\t": "tabs", " ": "spaces"}


def open_csv(paths: Sequence[str], config: DataConfig, like: pa.Schema | None) -> list[CsvFile]:
    """Open CSV files that belong together; `like` is the training rows' schema, if there is one.

    A decimal comma in one file is one in all that have the same separator. DataError if only some have a header.
    """
    known = set(like.names if like is not None else ())
    dialects: list[Dialect] = []
    for path in paths:
        dialect, first = sniffed(path, config, known)
        if not dialects and dialect.header:
            known.update(first)
        dialects.append(dialect)
    for path, dialect in zip(paths, dialects, strict=True):
        if dialect.header != dialects[0].header:
            named, plain = (path, paths[0]) if dialect.header else (paths[0], path)
            raise DataError(
                f"{named} begins with a line of column names and {plain} does not, as it seems; say what "
                "they have with --set data.csv_header=true (or false), or give all files the same first line"
            )
    commas = {dialect.separator for dialect in dialects if dialect.decimal == ","}
    return [
        CsvFile.open(path, replace(dialect, decimal="," if dialect.separator in commas else "."), config)
        for path, dialect in zip(paths, dialects, strict=True)
    ]


def notices(files: Sequence[CsvFile]) -> tuple[str, ...]:
    """Return a line for each way in which files are read that is not the ordinary one."""
    groups: dict[str, list[CsvFile]] = {}
    for file in files:
        groups.setdefault(_described(file), []).append(file)
    return tuple(f"{_listing(group)}: read {words}" for words, group in groups.items() if words)


def _listing(files: Sequence[CsvFile]) -> str:
    more = len(files) - 1
    return os.path.basename(files[0].path) + (f" and {more:,} more file{'s' if more > 1 else ''}" if more else "")


def _described(file: CsvFile) -> str:
    """Return how a file is read, such as `with ';' between columns and a decimal comma`, if that is not ordinary."""
    dialect = file.dialect
    between = WORDS.get(dialect.separator, repr(dialect.separator))
    parts = [f"with {between} between columns"] if dialect.separator != "," else []
    if dialect.decimal == ",":
        parts.append(f"{'' if parts else 'with '}a decimal comma")
    text = [" and ".join(parts)] if parts else []
    if file.grouped:
        names = ", ".join(repr(name) for name in sorted(file.grouped)[:3])
        more = f" and {len(file.grouped) - 3:,} more" if len(file.grouped) > 3 else ""
        text.append(f"with marks between thousands in {names}{more}")
    if dialect.titles:
        lines = f"the first {dialect.titles} lines, a title" if dialect.titles > 1 else "the first line, a title"
        text.append(f"without {lines} (data.csv_header=true if it holds the names of the columns)")
    if dialect.unsure is not None:
        text.append(f"with a decimal point in {dialect.unsure} (data.csv_decimal=, if it stands between thousands)")
    if file.foreign is not None:
        text.append(
            f"as {dialect.encoding} text, because it is not UTF-8: it has {file.foreign!r} (data.csv_encoding names "
            "another encoding)"
        )
    elif dialect.encoding.startswith("utf-16"):
        text.append("as UTF-16 text")
    if not dialect.header:
        names = file.schema.names
        text.append(
            f"without a header line, columns named {names[0]} to {names[-1]} (data.csv_header=true if it has one)"
        )
    if file.empty:
        text.append(
            f"without {', '.join(map(repr, file.empty[:3]))}{' ...' if len(file.empty) > 3 else ''}, which "
            f"{'is' if len(file.empty) == 1 else 'are'} empty"
        )
    return "; ".join(text)
