"""Rows that are refused: how many there are, and the commands that help."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from distsgd.data.columns import MissingLabel, MissingValue, RowError
from distsgd.data.csvfile import CsvFile
from distsgd.data.fitting import described, leaving_out
from distsgd.data.repairs import rewriting
from distsgd.data.sources import Source, SourceBatch
from distsgd.data.unusable import LONGEST_SETTING, listing
from distsgd.errors import DataError


def refusal(source: Source, batch: SourceBatch, problem: RowError) -> DataError:
    """Return the error for a row of a batch, with a command that helps where there is one."""
    error = batch.error(problem.row, str(problem))
    labels = _without_labels(source, batch)
    if isinstance(problem, MissingLabel) or (isinstance(problem, MissingValue) and labels[problem.row]):
        return _unlabelled(source, error)
    if isinstance(problem, MissingValue):
        return _missing_values(source, error)
    command = rewriting(source.files[0], problem.repair) if problem.repair and len(source.files) == 1 else None
    return DataError(f"{error}; for example: {command}") if command else error


def _without_labels(source: Source, batch: SourceBatch) -> NDArray[np.bool_]:
    """Return which rows (n,) of a batch lack a label."""
    found = [missing_labels(batch.table.column(label)) for label in source.schema.labels]
    return np.asarray(np.any(found, axis=0))


def _filter(labels: Sequence[str]) -> str:
    """Return the statement that keeps the rows of a frame `d` that have all labels."""
    if len(labels) > 1:
        return f"d = d.dropna(subset={list(labels)!r})"
    return f"d = d[d[{labels[0]!r}].notna() & d[{labels[0]!r}].ne('')]"


def missing_labels(column: pa.Array) -> NDArray[np.bool_]:
    """Return which labels (n,) are missing, or empty text."""
    if isinstance(column, pa.DictionaryArray):
        column = column.dictionary_decode()
    missing = column.is_null(nan_is_null=True)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        missing = pc.or_(missing, pc.fill_null(pc.equal(column, ""), False))
    return np.asarray(missing.to_numpy(zero_copy_only=False))


def _unlabelled(source: Source, error: DataError) -> DataError:
    """Return the error with the number of rows that have no label, and the command that leaves them out."""
    labels = source.schema.labels
    found = [_without_labels(source, batch) for batch in source.batches(labels)]
    missing = np.concatenate(found)
    count, total = int(missing.sum()), len(missing)
    have, column = "have" if count > 1 else "has", "columns" if len(labels) > 1 else "column"
    text = f"{error}; {count:,} of {total:,} rows {have} no label in {column} {listing(labels)}: leave "
    text += "them out" if count > 1 else "it out"
    command = None
    if len(source.files) == 1:
        file = source.files[0]
        if (
            isinstance(file, CsvFile) and source.kept is None and missing[total - count :].all()
        ):  # a total below the table, for example
            command = file.without_end(total - count)
        command = command or rewriting(file, _filter(labels))
    return DataError(f"{text}, with {command}" if command else text)


def _missing_values(source: Source, error: DataError) -> DataError:
    """Return the error with the number of missing values of every column that has some, and what to do about them."""
    counts: dict[str, int] = {}
    for batch in source.batches(source.schema.columns):
        for name in source.schema.columns:
            count = _missing_rows(batch.table.column(name))
            if count:
                counts[name] = counts.get(name, 0) + count
    columns = [(name, f"{count:,} of {source.num_rows:,} rows") for name, count in counts.items()]
    empty = [name for name, count in counts.items() if count == source.num_rows]
    command = leaving_out(source.schema, list(empty or counts))
    some = len(command) < LONGEST_SETTING and len(empty or counts) < len(source.schema.columns)
    found = f"{error}; values are missing in {described(columns)}"
    if empty and some:
        rest = ", and fill the others with --set data.missing=mean (or zero)" if len(counts) > len(empty) else ""
        return DataError(f"{found}: leave out what has no values at all: {command}{rest}")
    what = f"or leave these columns out: {command}" if some else "or leave such rows out"
    return DataError(f"{found}: fill them with --set data.missing=mean (or zero), {what}")


def _missing_rows(values: pa.Array) -> int:
    if isinstance(values, pa.ExtensionArray):
        values = values.storage
    if values.null_count and pa.types.is_nested(values.type):
        return int(values.null_count)
    if pa.types.is_nested(values.type):
        values = values.flatten()
    nans = 0
    if pa.types.is_floating(values.type):
        numbers = values.drop_null().to_numpy(zero_copy_only=False)
        nans = int(np.isnan(numbers).sum())
    return int(values.null_count) + nans
