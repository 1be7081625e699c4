"""The formats of data files: one entry each, and how a file's format is recognised."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from distsgd.config import DataConfig
from distsgd.data import csvtext, npzfile
from distsgd.data.arrowfile import ArrowFile
from distsgd.data.csvfile import CsvFile
from distsgd.data.csvfiles import notices, open_csv
from distsgd.data.datafile import DataFile, reading
from distsgd.data.digits import Digits
from distsgd.data.inference import with_common_types
from distsgd.data.npzfile import NpzFile, open_npz
from distsgd.data.parquetfile import ParquetFile
from distsgd.errors import DataError


@dataclass(frozen=True, kw_only=True)
class FileFormat:
    """A format that rows can be read from."""

    name: str
    suffixes: tuple[str, ...]
    """Endings of file names, in lower case; a folder's files with one of them are read."""

    open: Callable[[str], DataFile]
    """Open a file by its path; DataError if it cannot be read."""

    magic: tuple[bytes, ...] = ()
    """How files of the format begin; none for text, which is known by its suffix."""

    label: str | None = None
    """Name of the label column, if the format fixes it; `data.label` says it otherwise."""

    open_all: Callable[[Sequence[str], DataConfig, pa.Schema | None], Sequence[DataFile]] | None = None
    """To open files together, or as the configuration says. Takes paths, configuration and the training schema."""

    compressed: bool = False
    """Whether files may be compressed, with an ending such as `.gz` after the suffix."""

    harmonize: Callable[[Sequence[Any], str, pa.Schema | None], Sequence[DataFile]] | None = None
    """For a format without types: give opened files common ones. Takes the files, the label, the training schema."""

    notices: Callable[[Sequence[Any]], tuple[str, ...]] | None = None
    """What was found out about opened files and the user should know, one line each; nothing about ordinary ones."""


FORMATS = (
    FileFormat(name="Parquet", suffixes=(".parquet", ".pq"), magic=(b"PAR1",), open=ParquetFile.open),
    FileFormat(
        name="Arrow IPC",
        suffixes=(".arrow", ".arrows", ".feather", ".ipc"),
        magic=(b"ARROW1", b"\xff\xff\xff\xff"),  # the second is a stream's first message
        open=ArrowFile.open,
    ),
    FileFormat(
        name=".npz",
        suffixes=(".npz",),
        magic=(b"PK\x03\x04", b"PK\x05\x06"),  # the second is a zip archive without members
        open=NpzFile.open,
        open_all=open_npz,
        label=npzfile.LABEL,
    ),
    FileFormat(
        name="CSV",
        suffixes=(".csv", ".tsv"),
        open=CsvFile.open,
        open_all=open_csv,
        harmonize=with_common_types,
        notices=notices,
        compressed=True,
    ),
)
"""All formats. A new one is a class as `datafile.DataFile` describes it, and an entry here."""

DIGITS = FileFormat(name="digits", suffixes=(), open=Digits.open)
"""What `digits` names in place of a path."""

BY_SUFFIX = {suffix: form for form in FORMATS for suffix in form.suffixes}

REFUSED_MAGIC = {
    b"PARE": "is an encrypted Parquet file; decrypt it first",
    b"FEA1": "is a Feather file of version 1; write it again as version 2 or as Parquet",
    b"\x1f\x8b": "is compressed with gzip; decompress it first, or write it as Parquet",
    b"\x28\xb5\x2f\xfd": "is compressed with zstd; decompress it first, or write it as Parquet",
    b"BZh": "is compressed with bzip2; decompress it first, or write it as Parquet",
    b"\xfd7zXZ\0": "is compressed with xz; decompress it first (xz -d), or compress it with gzip",
    b"\xd0\xcf\x11\xe0": "is an Excel workbook of the old format; save the sheet as CSV (in Excel: CSV UTF-8)",
    b"\x89HDF": "is an HDF5 file; write it as Parquet, such as with pandas.read_hdf(...).to_parquet(...)",
    b"SQLite format 3": "is an SQLite database; write the table as Parquet or CSV",
    b"\x80\x04": "is a pickle, and reading one may run any program; write the rows as Parquet",
    b"\x80\x05": "is a pickle, and reading one may run any program; write the rows as Parquet",
    b"\x93NUMPY": "is a single NumPy array; save the arrays X and y together with numpy.savez",
}

TO_PARQUET = """write it as Parquet: python -c "import pandas as pd; """
REFUSED_TEXT = {
    rb"\s*\{\s*\"": f"is JSON, not a table; {TO_PARQUET}pd.read_json('PATH', lines=True).to_parquet('STEM.parquet')\"",
    rb"\s*\[\s*\{\s*\"": f"is JSON, not a table; {TO_PARQUET}pd.read_json('PATH').to_parquet('STEM.parquet')\"",
    rb"(?i)\s*<(!doctype|html|\?xml)": "is a web page or XML, not a table; download the table itself",
}
"""Text that is no table, by a pattern of its beginning; PATH and STEM stand for the file's name."""


def form_of_name(path: str) -> FileFormat | None:
    """Return the format that a file has by its name: `.csv`, `.csv.gz`; None if that is no data file's."""
    name = Path(path.lower())
    if name.suffix in csvtext.ENDINGS:
        form = BY_SUFFIX.get(name.with_suffix("").suffix)
        return form if form is not None and form.compressed else None
    return BY_SUFFIX.get(name.suffix)


def recognise(path: str) -> FileFormat:
    """Return the format of a file by its first bytes, or by its suffix for text; DataError if it is none of FORMATS."""
    expected = form_of_name(path)
    head = _head(path, expected)
    for form in FORMATS:
        if head.startswith(form.magic or (b"\0" * 512,)):
            return form
    for magic, problem in REFUSED_MAGIC.items():
        if head.startswith(magic):
            raise DataError(f"{path} {problem}")
    for pattern, problem in REFUSED_TEXT.items():
        if (expected is None or expected.name == "CSV") and re.match(pattern, head):
            raise DataError(f"{path} {problem}".replace("PATH", path).replace("STEM", Path(path).stem))
    if expected is not None and not expected.magic and csvtext.is_text(head):
        return expected
    start = head[:12].decode("ascii", "replace")
    if expected is not None:
        raise DataError(
            f"{path} is not {expected.name}, although its name says so: it begins with {start!r}; write it in that "
            "format, or rename it"
        )
    rename = f"; if it is CSV, rename it to {Path(path).stem}.csv" if csvtext.is_text(head) else ""
    raise DataError(f"{path} begins with {start!r}; expected {_listing()}{rename}")


def _head(path: str, expected: FileFormat | None) -> bytes:
    """Return the first bytes of a file, decompressed if it is of a format that may be; DataError if there are none."""
    try:
        with open(path, "rb") as file:
            head = file.read(512)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    if not head:
        raise DataError(f"{path} is empty (0 bytes)")
    if expected is None or not expected.compressed or not head.startswith(tuple(csvtext.COMPRESSED)):
        return head
    with reading(path, f"compressed {expected.name}"), csvtext.opened(path) as text:
        head = bytes(text.read(512))
    if not head:
        raise DataError(f"{path} is empty (0 bytes, once it is decompressed)")
    return head


def _listing() -> str:
    """Return `a Parquet, Arrow IPC, .npz or (named .csv) CSV file`."""
    names = [form.name if form.magic else f"(named {form.suffixes[0]}) {form.name}" for form in FORMATS]
    return f"a {', '.join(names[:-1])} or {names[-1]} file"
