"""Parquet files, decoded page by page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from distsgd.data.datafile import reading, with_text_names


@dataclass(frozen=True)
class ParquetFile:
    """A Parquet file. Checksums of its pages are verified where it has them."""

    path: str
    schema: pa.Schema
    num_rows: int

    @classmethod
    def open(cls, path: str) -> ParquetFile:
        """Read the file's footer."""
        with reading(path, "Parquet"), cls._open(path) as file:
            return cls(path, with_text_names(file.schema_arrow), file.metadata.num_rows)

    @staticmethod
    def _open(path: str) -> Any:
        from pyarrow import parquet

        # Without a buffer size, and with pre-buffering, a whole row group lies in memory beside its decoded rows.
        return parquet.ParquetFile(path, page_checksum_verification=True, pre_buffer=False, buffer_size=2**20)

    def batches(self, columns: Sequence[str], max_rows: int) -> Iterator[pa.RecordBatch]:
        """Yield the rows in order, decoded page by page."""
        with reading(self.path, "Parquet"), self._open(self.path) as file:
            for batch in file.iter_batches(max_rows, columns=list(columns)):
                batch.validate(full=True)
                yield batch
