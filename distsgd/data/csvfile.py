"""CSV files, whose column types are inferred by reading them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from distsgd.data.datafile import reading

BLOCK_BYTES = 2**23
"""Bytes parsed at a time; also the maximum length of a row."""

REMEDY = "correct that row"


@dataclass(frozen=True)
class CsvFile:
    """A CSV file with a header line, and the types that its columns are read as."""

    path: str
    schema: pa.Schema
    num_rows: int

    @classmethod
    def open(cls, path: str) -> CsvFile:
        """Read the file once, whole, to find types that fit every row of it."""
        from pyarrow import csv

        with reading(path, "CSV", REMEDY):
            # One thread, so that an error names the row.
            options = csv.ReadOptions(block_size=BLOCK_BYTES, use_threads=False)
            table = csv.read_csv(path, read_options=options)
        return cls(path, table.schema, table.num_rows)

    def batches(self, columns: Sequence[str], max_rows: int) -> Iterator[pa.RecordBatch]:
        """Yield the rows in order, read as the types of the schema."""
        from pyarrow import csv

        with reading(self.path, "CSV", REMEDY):
            options = csv.ReadOptions(block_size=BLOCK_BYTES, use_threads=False)
            types = {name: self.schema.field(name).type for name in columns}
            convert = csv.ConvertOptions(column_types=types, include_columns=list(columns))
            with csv.open_csv(self.path, read_options=options, convert_options=convert) as reader:
                for batch in reader:
                    for start in range(0, batch.num_rows, max_rows):
                        yield batch.slice(start, max_rows)


def with_common_types(files: Sequence[CsvFile], label: str, like: pa.Schema | None) -> list[CsvFile]:
    """Return the files with types that they can all be read as, and as `like`, the training rows', if that is given.

    A file in which a column happens to hold only whole numbers, or nothing, says less about it than the others. Only
    labels are widened to strings; a feature that is text in one file is left for the schema check to name.
    """
    wide: dict[str, pa.DataType] = {}
    for schema in [*(f.schema for f in files), *([like] if like is not None else [])]:
        for field in schema:
            wide[field.name] = _wider(wide.get(field.name, pa.null()), field.type, field.name == label)
    return [CsvFile(f.path, _widened(f.schema, wide, label), f.num_rows) for f in files]


def _widened(schema: pa.Schema, wide: dict[str, pa.DataType], label: str) -> pa.Schema:
    return pa.schema([(field.name, _wider(field.type, wide[field.name], field.name == label)) for field in schema])


def _wider(kind: pa.DataType, other: pa.DataType, is_label: bool) -> pa.DataType:
    """Return the type that text of both types can be read as: nothing, int64, double or, for a label, string."""
    order = [pa.null(), pa.int64(), pa.float64(), *([pa.string()] if is_label else [])]
    ranks = [_rank(t, order) for t in (kind, other)]
    if ranks[0] == 0 and ranks[1] < 0:
        return other
    return kind if min(ranks) < 0 else order[max(ranks)]


def _rank(kind: pa.DataType, order: Sequence[pa.DataType]) -> int:
    """Return the place of a type, or of the CSV type that holds its values, in `order`; -1 if it has none."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    for test, held in (
        (pa.types.is_integer, pa.int64()),
        (pa.types.is_floating, pa.float64()),
        (pa.types.is_large_string, pa.string()),
    ):
        if test(kind):
            kind = held
    return order.index(kind) if kind in order else -1
