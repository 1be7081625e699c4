"""Columns that folders' names hold, as Hive and Spark write them: `folder/year=2020/rows.parquet`."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa

from distsgd.data.datafile import DataFile, Doubt, TextFile
from distsgd.errors import DataError

MISSING = "__HIVE_DEFAULT_PARTITION__"
"""The value that stands for a missing one."""


@dataclass(frozen=True)
class PartitionedFile:
    """A data file with a column more for each name, of one value in all rows."""

    file: DataFile
    values: Mapping[str, pa.Scalar]

    @property
    def path(self) -> str:
        """See DataFile.path."""
        return self.file.path

    @property
    def schema(self) -> pa.Schema:
        """See DataFile.schema; the folders' columns are the last ones."""
        schema = self.file.schema
        for name, value in self.values.items():
            schema = schema.append(pa.field(name, value.type))
        return schema

    @property
    def num_rows(self) -> int:
        """See DataFile.num_rows."""
        return self.file.num_rows

    def batches(self, columns: Sequence[str], max_rows: int) -> Iterator[pa.RecordBatch]:
        """See DataFile.batches. At least one column of the file itself is read, for the number of its rows."""
        own = [name for name in columns if name not in self.values]
        for batch in self.file.batches(own or self.file.schema.names[:1], max_rows):
            constant = {name: pa.repeat(value, batch.num_rows) for name, value in self.values.items()}
            yield pa.record_batch({name: constant.get(name, batch.column(i)) for i, name in _placed(own, columns)})


def _placed(own: Sequence[str], columns: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Yield each of the columns with its place among the file's `own`, or 0."""
    places = {name: place for place, name in enumerate(own)}
    yield from ((places.get(name, 0), name) for name in columns)


class PartitionedText(PartitionedFile):
    """The same, for text, whose rows have lines."""

    file: TextFile

    @property
    def doubts(self) -> Mapping[str, Doubt]:
        """See TextFile.doubts."""
        return self.file.doubts

    def line(self, row: int) -> int:
        """See TextFile.line."""
        return self.file.line(row)

    def locate(self, row: int) -> tuple[int, str]:
        """See TextFile.locate."""
        return self.file.locate(row)


def with_partitions(
    location: str, files: Sequence[DataFile], wanted: Collection[str]
) -> tuple[list[DataFile], tuple[str, ...]]:
    """Return the files with those of their folders' columns that are `wanted`, and a notice of the others.

    A column that a file has itself is left as it is. DataError if only some of the files lie in folders of a column.
    """
    found = [partition_values(location, file.path) for file in files]
    names = dict.fromkeys(name for values in found for name in values)
    names = dict.fromkeys(name for name in names if name not in files[0].schema.names)
    columns: dict[str, pa.Array] = {}
    for name in names:
        if name in wanted:
            for file, values in zip(files, found, strict=True):
                if name not in values:
                    raise DataError(
                        f"{file.path} is in no folder {name}=..., as other files of {location} are; move it there, or "
                        "name the files with a glob"
                    )
            columns[name] = _column([values[name] for values in found])
    left_out = [repr(name) for name in names if name not in columns]
    notice = (
        f"{location}: the folders' column{'s' if len(left_out) > 1 else ''} {', '.join(left_out)} "
        f"{'are' if len(left_out) > 1 else 'is'} left out; name what you need in data.features or data.label"
    )
    if columns:
        files = [
            (PartitionedText if isinstance(file, TextFile) else PartitionedFile)(
                file, {name: values[i] for name, values in columns.items()}
            )
            for i, file in enumerate(files)
        ]
    return list(files), (notice,) if left_out else ()


def partition_values(location: str, path: str) -> dict[str, str]:
    """Return the names and values of the folders `NAME=VALUE` on the way from a location to one of its files."""
    base = os.path.expanduser(location)
    if not os.path.isdir(base):
        base = next((str(p) for p in Path(base).parents if not glob.has_magic(str(p))), ".")
    folders = os.path.relpath(os.path.dirname(path) or ".", base).split(os.sep)
    pairs = (folder.split("=", 1) for folder in folders if "=" in folder)
    return {unquote(name): unquote(value) for name, value in pairs}


def _column(values: Sequence[str]) -> pa.Array:
    """Return the values as integers if all of them are, else as text."""
    known = [None if value == MISSING else value for value in values]
    integers = all(re.fullmatch(r"-?\d{1,18}", value) for value in known if value is not None)
    return pa.array(
        [None if v is None else int(v) if integers else v for v in known], pa.int64() if integers else pa.string()
    )
