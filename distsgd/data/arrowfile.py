"""Arrow IPC files and streams, memory-mapped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from distsgd.data.datafile import reading, with_text_names


@dataclass(frozen=True)
class ArrowFile:
    """An Arrow IPC file, or stream: memory-mapped, so that uncompressed batches are not copied."""

    path: str
    schema: pa.Schema
    num_rows: int
    is_stream: bool

    @classmethod
    def open(cls, path: str) -> ArrowFile:
        """Read the schema, and count the rows of all batches."""
        with open(path, "rb") as file:
            is_stream = file.read(6) != b"ARROW1"
        with reading(path, "Arrow IPC"), pa.memory_map(path) as source:
            reader = pa.ipc.open_stream(source) if is_stream else pa.ipc.open_file(source)
            rows = sum(batch.num_rows for batch in _all_batches(reader, is_stream))
            return cls(path, with_text_names(reader.schema), rows, is_stream)

    def batches(self, columns: Sequence[str], max_rows: int) -> Iterator[pa.RecordBatch]:
        """Yield the rows in order, as views of the mapped file where it is not compressed."""
        with reading(self.path, "Arrow IPC"), pa.memory_map(self.path) as source:
            reader = pa.ipc.open_stream(source) if self.is_stream else pa.ipc.open_file(source)
            for batch in _all_batches(reader, self.is_stream):
                chosen = batch.select(list(columns))
                # Lengths and offsets inside the file are not to be trusted: a wrong one would be read past the map.
                chosen.validate(full=True)
                for start in range(0, chosen.num_rows, max_rows):
                    yield chosen.slice(start, max_rows)


def _all_batches(reader: pa.ipc.RecordBatchReader, is_stream: bool) -> Iterator[pa.RecordBatch]:
    if is_stream:
        yield from reader
    else:
        yield from (reader.get_batch(i) for i in range(reader.num_record_batches))
