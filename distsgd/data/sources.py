"""A path's files as one table of rows."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from distsgd.config import DataConfig
from distsgd.core.losses import Target
from distsgd.data.columns import in_order_of, storage_dtype
from distsgd.data.datafile import DataFile, place, row_error
from distsgd.data.differences import differences, not_for_unit, type_differences, unknown_exclusions, unlabelled
from distsgd.data.files import find
from distsgd.data.formats import DIGITS, FileFormat, recognise
from distsgd.data.in_memory import FRAME, InMemory
from distsgd.data.partitions import with_partitions
from distsgd.data.schema import InputSchema
from distsgd.data.selection import collecting, resolve
from distsgd.errors import DataError, counted

BATCH_BYTES = 2**23
"""Bytes of feature values that are decoded at a time."""


@dataclass(frozen=True)
class SourceBatch:
    """Some consecutive rows of one file."""

    table: pa.RecordBatch
    file: DataFile
    start: int
    """The first row's number within the file, from 0."""
    kept: NDArray[np.bool_] | None = None
    """Which rows of the file, from there on, the table has; None if it has all."""

    def error(self, row: int, problem: str) -> DataError:
        """Return the error for one row of the batch."""
        return row_error(self.file, self.in_file(row), problem)

    def place(self, row: int) -> str:
        """Return the file, and the row within it, of one row of the batch."""
        return place(self.file, self.in_file(row))

    def in_file(self, row: int) -> int:
        """Return the number of a row of the batch within its file, from 0."""
        return self.start + (row if self.kept is None else int(np.flatnonzero(self.kept)[row]))

    def only(self, kept: NDArray[np.bool_]) -> SourceBatch:
        """Return the batch with the rows that are marked in `kept` (n,)."""
        of_file = kept
        if self.kept is not None:
            of_file = self.kept.copy()
            of_file[self.kept] = kept
        return SourceBatch(self.table.filter(pa.array(kept)), self.file, self.start, of_file)


@dataclass(frozen=True)
class Source:
    """Rows from one or many files of one format, none of them empty, in the order of their sorted paths."""

    location: str
    """The path, glob or name that was given."""

    files: tuple[DataFile, ...]
    schema: InputSchema
    notices: tuple[str, ...] = ()
    """What was found out about the files and the user should know, one line each."""
    weights: NDArray[np.float32] | None = None
    """(N,), above 0; None if each row counts once."""
    kept: NDArray[np.bool_] | None = None
    """Which rows of the files these are; None if they are all."""
    stage: Callable[[str], None] = lambda _: None
    """Called with how many rows have been read."""

    def reporting(self, stage: Callable[[str], None]) -> Source:
        """Return the source with another `stage`."""
        return dataclasses.replace(self, stage=stage)

    def like(self, training: Source) -> Source:
        """Return the source with the columns that were fitted to the training rows, and no others."""
        schema = self.schema
        types = dict(zip(schema.columns, schema.types, strict=True))
        columns = training.schema.columns
        kept = dataclasses.replace(
            schema,
            columns=columns,
            types=tuple(types[name] for name in columns),
            categorical=training.schema.categorical,
            fitted=training.schema.fitted,
        )
        return dataclasses.replace(self, schema=kept)

    @property
    def num_rows(self) -> int:
        """Rows of all files, N, without those that are left out."""
        return sum(file.num_rows for file in self.files) if self.kept is None else int(self.kept.sum())

    def batches(self, names: Sequence[str] | None = None) -> Iterator[SourceBatch]:
        """Yield all rows in order: the columns `names`, or by default the features, with labels if there are some.

        DataError if a file cannot be read or does not hold as many rows as it claims.
        """
        if names is None:
            names = [*self.schema.columns, *(self.schema.labels if self.schema.labelled else [])]
        value_bytes = max(kind.itemsize for kind in self.schema.stored_types)
        max_rows = max(1, min(65_536, BATCH_BYTES // (value_bytes * self.schema.num_features)))
        done, total = 0, sum(file.num_rows for file in self.files)
        for file in self.files:
            start = 0
            self.stage(f"reading {self.location}: {done:,} of {total:,} rows")
            for table in file.batches(names, max_rows):
                if start + table.num_rows > file.num_rows:
                    break
                batch = SourceBatch(table, file, start)
                yield batch if self.kept is None else batch.only(self.kept[done : done + table.num_rows])
                start += table.num_rows
                done += table.num_rows
                self.stage(f"reading {self.location}: {done:,} of {total:,} rows")
            else:
                if start == file.num_rows:
                    continue
            raise DataError(
                f"{file.path} says that it has {counted(file.num_rows, 'row')} and holds another number; write it again"
            )

    def place(self, row: int) -> str:
        """Return the file, and the row within it, of row `row` of [0, N)."""
        row = row if self.kept is None else int(np.flatnonzero(self.kept)[row])
        starts = [0, *itertools.accumulate(file.num_rows for file in self.files)]
        number = int(np.searchsorted(starts, row, side="right")) - 1
        return place(self.files[number], row - int(starts[number]))


Opened = tuple[FileFormat, Sequence[DataFile]]
"""The files of a path, and their format."""


def open_source(
    given: str | InMemory,
    config: DataConfig,
    training: Source | None = None,
    *,
    target: Target = "class",
    labelled: bool = True,
    opened: Opened | None = None,
) -> Source:
    """Open what `given` names or holds, and check that all its files have the same columns, and those of `training`.

    With `labelled` false no label column is needed or read; one of that name is no feature, either. `opened` are the
    files if they have been opened before. DataError for whatever is wrong with paths, formats, columns and types, with
    all problems of columns and types; values are checked when rows are read.
    """
    form, files = opened or open_files(given, config, training.files[0].schema if training else None)
    location = given.path if isinstance(given, InMemory) else given
    if isinstance(given, InMemory) and given.weight is not None:
        config = config.model_copy(update={"weight": given.weight})
    filled = [file for file in files if file.num_rows]
    notices = form.notices(filled) if form.notices else ()
    if not filled:
        raise DataError(f"{location} has no rows; expected at least one for each class")
    if form.label is not None and config.label not in (DataConfig().label, form.label):
        raise DataError(
            f"{location}: data.label is {config.label!r}, and in {form.name} files labels are the array {form.label}; "
            "leave it unset"
        )
    labels = (form.label,) if form.label else config.labels
    filled, left_out = with_partitions(
        location, filled, {*labels, *([config.weight] if config.weight else []), *(config.features or ())}
    )
    notices += left_out
    # Files without rows are passed over: a list column may have its width in its first row, CSV has its types there.
    found = [] if training else unknown_exclusions(location, filled, config)
    if training is not None:  # what was left out of the training rows is left out here
        left_out_there = [name for name, _ in training.schema.left_out]
        config = config.model_copy(update={"exclude": tuple(dict.fromkeys((*config.exclude, *left_out_there)))})
    empty = _empty_columns(filled) if training is None else ()
    lacking = unlabelled(filled, labels) if training is not None and labelled else []
    schemas = list[InputSchema]()
    for file in filled:
        with collecting(found, ""):
            schema = resolve(file, labels, config, target=target, labelled=labelled and not lacking, empty=empty)
            if schemas:
                found += differences(file, schema, schemas[0], filled[0].path)
                found += type_differences(file, schema, schemas[0], filled[0].path, None)
            schemas.append(schema)
    found += lacking
    if training is None and config.normalize == "unit" and schemas:
        found += not_for_unit(form, filled[0], schemas[0])
    if training is not None and schemas:
        storage = None if config.normalize == "unit" else storage_dtype(training.schema)
        found += differences(filled[0], schemas[0], training.schema, training.location)
        found += type_differences(filled[0], schemas[0], training.schema, training.location, storage)
    if found:
        raise DataError(problems=found, notes=notices)  # which how the files were read may explain
    schema = schemas[0] if training is None else in_order_of(schemas[0], training.schema)
    return Source(location, tuple(filled), schema, notices)


def _empty_columns(files: Sequence[DataFile]) -> list[str]:
    """Return the columns that have no values in any file, as their types say."""
    found = dict.fromkeys(field.name for field in files[0].schema if pa.types.is_null(field.type))
    for file in files[1:]:
        nulls = {field.name for field in file.schema if pa.types.is_null(field.type)}
        found = {name: None for name in found if name in nulls}
    return list(found)


def open_files(location: str | InMemory, config: DataConfig, like: pa.Schema | None) -> Opened:
    """Open files of one format, which the first one gives; text is read as the types of `like` where that is given."""
    if isinstance(location, InMemory):
        return location.form, [location]
    for form in (DIGITS, FRAME):
        if location == form.name:
            return form, [form.open(location)]
    paths = find(location)
    form = recognise(paths[0])
    for path in paths[1:]:
        other = recognise(path)
        if other != form:
            raise DataError(
                f"{path} is {other.name} and {paths[0]} is {form.name}; expected one format: keep one, or use a glob"
            )
    files = form.open_all(paths, config, like) if form.open_all else [form.open(path) for path in paths]
    for file in files:
        if file.num_rows < 0:
            raise DataError(f"{file.path} claims to have {file.num_rows} rows; it is damaged: write it again")
    return form, files if form.harmonize is None else form.harmonize(files, config.labels[0], like)
