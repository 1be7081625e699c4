"""Predictions as CSV: a list becomes a column for each of the model's classes or labels, as CSV has no lists."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from pyarrow import csv

from distsgd.core.names import shortened
from distsgd.data.predictions import CLASSES, PREDICTION, PROBABILITIES
from distsgd.errors import DataError

ENDING = ".csv"


def check_columns(schema: pa.Schema) -> None:
    """Refuse kept columns that CSV cannot hold, such as lists."""
    for field in schema:
        if field.name not in (PREDICTION, PROBABILITIES):
            try:
                csv.write_csv(pa.schema([field]).empty_table(), pa.BufferOutputStream())
            except pa.ArrowException:
                raise DataError(
                    f"column {shortened(field.name)!r} is {str(field.type)[:100]}, which CSV cannot hold; leave it out "
                    "of --keep, or give --out a name that ends in .parquet"
                ) from None


def flat(rows: pa.Table) -> pa.Table:
    """Return rows of predictions with columns such as `probabilities[a]` for classes or labels in place of lists."""
    classes = json.loads(rows.schema.metadata[CLASSES])
    columns: list[tuple[str, pa.ChunkedArray]] = []
    for name, column in zip(rows.schema.names, rows.columns, strict=True):
        if name in (PREDICTION, PROBABILITIES) and pa.types.is_list(column.type):
            values = column.combine_chunks().flatten().to_numpy().reshape(len(rows), len(classes))
            columns += [(f"{name}[{label}]", pa.array(values[:, i])) for i, label in enumerate(classes)]
        else:
            columns.append((name, column))
    return pa.Table.from_arrays([column for _, column in columns], names=[name for name, _ in columns])


class CsvPredictions:
    """Writes rows of predictions to a CSV file, part by part."""

    def __init__(self, writer: csv.CSVWriter) -> None:
        self._writer = writer

    def write_table(self, rows: pa.Table, row_group_size: int) -> None:  # noqa: ARG002 - as ParquetWriter has it
        """Write some rows."""
        self._writer.write_table(flat(rows))


@contextlib.contextmanager
def writer(path: Path, schema: pa.Schema) -> Iterator[CsvPredictions]:
    """Yield what writes rows of a schema to a file."""
    with csv.CSVWriter(path, flat(schema.empty_table()).schema) as opened:
        yield CsvPredictions(opened)
