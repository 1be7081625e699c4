"""The run's journal, `metrics.jsonl`: a line for each logged step, written before anything else hears of it."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from distsgd.errors import RunDirectoryError


class Journal:
    """Lines in the order of their steps; each is written whole, by one call."""

    def __init__(self, path: Path, file: BinaryIO, records: list[dict[str, Any]]) -> None:
        self._path, self._file, self._records = path, file, records

    @classmethod
    def open(cls, path: Path, *, resume_step: int | None) -> Journal:
        """Open a new journal, or with `resume_step` one that exists, whose later lines are cut off.

        Raises RunDirectoryError if a line that is kept cannot be read.
        """
        if resume_step is None:
            return cls(path, open(path, "xb", buffering=0), [])
        file = open(path, "a+b", buffering=0)  # noqa: SIM115 - the journal closes it
        file.seek(0)
        kept: list[dict[str, Any]] = []
        size = 0
        for number, line in enumerate(file.read().splitlines(keepends=True), start=1):
            if not line.endswith(b"\n"):
                break
            record = _parse(line, path, number, kept)
            if record["step"] > resume_step:
                break
            kept.append(record)
            size += len(line)
        file.truncate(size)
        file.seek(size)
        os.fsync(file.fileno())
        return cls(path, file, kept)

    @property
    def last_step(self) -> int | None:
        """The step of the last line, or None if there is no line."""
        return self._records[-1]["step"] if self._records else None

    def append(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Write a record with the time of day added, and return it as written; steps must increase."""
        line = {**record, "timestamp_ms": time.time_ns() // 1_000_000}
        if self.last_step is not None and line["step"] <= self.last_step:
            raise ValueError(f"a line for step {line['step']} comes after that of step {self.last_step}")
        self._file.write(json.dumps(line, allow_nan=False).encode() + b"\n")
        self._records.append(line)
        return line

    def records(self) -> list[dict[str, Any]]:
        """Return all lines."""
        return list(self._records)

    def sync(self) -> None:
        """Return when all lines are on disk."""
        os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def read(path: Path) -> list[dict[str, Any]]:
    """Return the whole lines of a journal; RunDirectoryError if one of them cannot be read."""
    records: list[dict[str, Any]] = []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        if line.endswith(b"\n"):
            records.append(_parse(line, path, number, records))
    return records


def _parse(line: bytes, path: Path, number: int, before: list[dict[str, Any]]) -> dict[str, Any]:
    try:
        record = json.loads(line)
        numbers = all(
            isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            for value in record.values()
        )
        if not (numbers and isinstance(record["step"], int) and (not before or before[-1]["step"] < record["step"])):
            raise ValueError
    except (ValueError, KeyError, AttributeError):
        raise RunDirectoryError(f"line {number} of the journal {str(path)!r} is damaged: {line[:80]!r}") from None
    return dict(record)
