"""CSV files, whose column types are inferred by reading them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from distsgd.data.datafile import reading, with_text_names
from distsgd.errors import DataError

BLOCK_BYTES = 2**23
"""Bytes parsed at a time; also the maximum length of a row."""

ENCODING = "save the file as UTF-8 (in Excel: CSV UTF-8)"
"""What to do about text in another encoding."""

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
            try:
                schema = with_text_names(table.schema)
            except UnicodeDecodeError:
                raise DataError(f"{path}: the header is not UTF-8; {ENCODING}") from None
        for field in schema:
            if pa.types.is_binary(field.type):  # what pyarrow reads text as that is not UTF-8
                raise DataError(f"{path}: column {field.name!r} holds text that is not UTF-8; {ENCODING}")
        return cls(path, schema, table.num_rows)

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
