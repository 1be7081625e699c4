"""Commands that write a file again, so that it can be trained on; they need pandas, which is installed with MLflow."""

from __future__ import annotations

import shlex
from pathlib import Path

from distsgd.data.arrowfile import ArrowFile
from distsgd.data.csvfile import CsvFile
from distsgd.data.csvtext import ENDINGS
from distsgd.data.datafile import DataFile
from distsgd.data.parquetfile import ParquetFile
from distsgd.data.remedies import new_name

LONGEST = 340
"""Characters of a command that a message gives."""


def rewriting(file: DataFile, *changes: str) -> str | None:
    """Return the command that reads a file as the frame `d`, makes the changes to it, and writes it as Parquet.

    None if pandas would not read the file as distsgd does, or if the command is too long for a message.
    """
    read = _reading(file)
    if read is None:
        return None
    path = Path(file.path)
    stem = path.with_suffix("") if path.suffix.lower() in ENDINGS else path
    target = new_name(f"{stem.stem}.parquet")
    code = "; ".join(["import pandas as pd", f"d = {read}", *changes, f"d.to_parquet({target!r}, index=False)"])
    quoted = shlex.quote(code) if any(c in code for c in '"$`\\!') else f'"{code}"'
    command = f"python -c {quoted}"
    return command if len(command) <= LONGEST and command.isprintable() else None


def _reading(file: DataFile) -> str | None:
    """Return the call of pandas that reads a file."""
    if isinstance(file, ParquetFile):
        return f"pd.read_parquet({file.path!r})"
    if isinstance(file, ArrowFile) and not file.is_stream:
        return f"pd.read_feather({file.path!r})"
    if not isinstance(file, CsvFile) or file.grouped:
        return None
    dialect = file.dialect
    options = {
        "sep": (dialect.separator, ","),
        "decimal": (dialect.decimal, "."),
        "encoding": (dialect.encoding, "utf-8"),
        "skiprows": (file.line(0) - 1 - dialect.header if dialect.skipped else 0, 0),
        "na_values": (list(file.given_nulls), []),
    }
    text = "".join(f", {name}={value!r}" for name, (value, usual) in options.items() if value != usual)
    return (
        f"pd.read_csv({file.path!r}{text})"
        if dialect.header
        else (f"pd.read_csv({file.path!r}{text}, header=None).add_prefix('c')")
    )
