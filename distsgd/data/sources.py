"""A path's files as one table of rows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from distsgd.config import DataConfig
from distsgd.data import npzfile
from distsgd.data.columns import check_same, check_types, in_order_of, resolve, storage_dtype
from distsgd.data.csvfile import CsvFile
from distsgd.data.datafile import DataFile
from distsgd.data.dataset import InputSchema
from distsgd.data.digits import Digits
from distsgd.data.files import find
from distsgd.data.formats import recognise
from distsgd.data.npzfile import NpzFile
from distsgd.errors import DataError

BATCH_BYTES = 2**23
"""Bytes of feature values that are decoded at a time."""


@dataclass(frozen=True)
class SourceBatch:
    """Some consecutive rows of one file."""

    table: pa.RecordBatch
    path: str
    start: int
    """The first row's number within the file, from 0."""

    def error(self, row: int, problem: str) -> DataError:
        """Return the error for one row of the batch."""
        return DataError(f"{self.path}, row {self.start + row}: {problem}")


@dataclass(frozen=True)
class Source:
    """Rows from one or many files of one format, none of them empty, in the order of their sorted paths."""

    location: str
    """The path, glob or name that was given."""

    files: tuple[DataFile, ...]
    schema: InputSchema

    @property
    def num_rows(self) -> int:
        """Rows of all files, N."""
        return sum(file.num_rows for file in self.files)

    def batches(self) -> Iterator[SourceBatch]:
        """Yield all rows in order; DataError if a file cannot be read or does not hold as many as it claims."""
        names = [*self.schema.columns, self.schema.label]
        value_bytes = max(np.dtype(kind).itemsize for kind in self.schema.types)
        max_rows = max(1, min(65_536, BATCH_BYTES // (value_bytes * self.schema.num_features)))
        for file in self.files:
            start = 0
            for table in file.batches(names, max_rows):
                if start + table.num_rows > file.num_rows:
                    break
                yield SourceBatch(table, file.path, start)
                start += table.num_rows
            else:
                if start == file.num_rows:
                    continue
            raise DataError(
                f"{file.path} says that it has {file.num_rows} rows and holds another number; write it again"
            )

    def place(self, row: int) -> str:
        """Return the file, and the row within it, of row `row` of [0, N)."""
        starts = [0, *itertools.accumulate(file.num_rows for file in self.files)]
        number = int(np.searchsorted(starts, row, side="right")) - 1
        return f"{self.files[number].path}, row {row - starts[number]}"


def open_source(location: str, config: DataConfig, training: Source | None = None) -> Source:
    """Open what `location` names, and check that all its files have the same columns, and those of `training`.

    DataError for whatever is wrong with paths, formats, columns and types; values are checked when rows are read.
    """
    like = training.files[0].schema if training else None
    files = [Digits.open()] if location == "digits" else _open_files(find(location), config.label, like)
    filled = [file for file in files if file.num_rows]
    if not filled:
        raise DataError(f"{location} has no rows; expected at least one for each class")
    label = npzfile.LABEL if isinstance(files[0], NpzFile) else config.label
    if isinstance(files[0], NpzFile) and config.label not in ("label", npzfile.LABEL):
        raise DataError(
            f"{location}: data.label is {config.label!r}, and in .npz files labels are the array y; leave it unset"
        )
    # Files without rows are passed over: a list column may have its width in its first row, CSV has its types there.
    schemas = [resolve(file, label, config.features) for file in filled]
    for file, schema in zip(filled[1:], schemas[1:], strict=True):
        check_same(file, schema, schemas[0], filled[0].path)
        check_types(file, schema, schemas[0], filled[0].path, None)
    if training is None:
        if config.normalize == "unit":
            _check_unit(filled[0], schemas[0])
        return Source(location, tuple(filled), schemas[0])
    check_same(filled[0], schemas[0], training.schema, training.location)
    storage = None if config.normalize == "unit" else storage_dtype(training.schema)
    check_types(filled[0], schemas[0], training.schema, training.location, storage)
    return Source(location, tuple(filled), in_order_of(schemas[0], training.schema))


def _open_files(paths: list[str], label: str, like: pa.Schema | None) -> Sequence[DataFile]:
    """Open files of one format, which the first one gives."""
    form = recognise(paths[0])
    for path in paths[1:]:
        other = recognise(path)
        if other != form:
            raise DataError(
                f"{path} is {other.name} and {paths[0]} is {form.name}; expected one format: keep one, or use a glob"
            )
    files = [form.open(path) for path in paths]
    return files if form.harmonize is None else form.harmonize(files, label, like)


def _check_unit(file: DataFile, schema: InputSchema) -> None:
    """Refuse `unit` for columns that have no largest value by their type."""
    remedy = "use data.normalize=standard, or none"
    if isinstance(file, CsvFile):
        raise DataError(f"{file.path}: data.normalize=unit needs integer types, and CSV has none; {remedy}")
    for name, kind in zip(schema.columns, schema.types, strict=True):
        if np.dtype(kind).kind == "f":
            raise DataError(f"{file.path}: column {name!r} is {kind}, and data.normalize=unit needs integers; {remedy}")
