"""The run's journal, `metrics.jsonl`: a line for each logged step, written before MLflow or the user sees it.

A line that has been written is never changed. A resumed run computes the steps after its checkpoint again, and their
lines are already there with the same losses, so readers that follow the file, such as tracking, never see a step twice.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from distsgd.errors import RunDirectoryError, TrainingError
from distsgd.system.files import open_regular

Record = dict[str, Any]


class Journal:
    """An append-only file of lines in step order; each is written by a single call."""

    def __init__(self, path: Path, file: BinaryIO, records: list[Record]) -> None:
        self.path, self._file = path, file
        self._records = {record["step"]: record for record in records}
        self._last = records[-1]["step"] if records else None

    @classmethod
    def open(cls, path: Path, *, resume_step: int | None) -> Journal:
        """Create a journal, or with `resume_step` open an existing one, truncated before its first damaged line.

        Raises RunDirectoryError if a line up to `resume_step` is damaged: the run resumes after that step, so the line
        would not be written again.
        """
        if resume_step is None:
            return cls(path, open(path, "xb", buffering=0), [])
        try:
            file = open_regular(path, "a+b")
        except OSError as error:
            raise _unreadable(path, error) from None
        try:
            file.seek(0)
            kept: list[Record] = []
            size = 0
            try:
                for line, record in _parsed(file.read(), path):
                    kept.append(record)
                    size += len(line)
            except RunDirectoryError:
                if not kept or kept[-1]["step"] < resume_step:
                    raise
            file.truncate(size)
            os.fsync(file.fileno())
        except BaseException:
            file.close()
            raise
        return cls(path, file, kept)

    @property
    def last_step(self) -> int | None:
        """The step of the last line, or None if there is no line."""
        return self._last

    def append(self, record: Mapping[str, Any]) -> Record:
        """Write a record with a timestamp and return the line; an existing line for this step is kept and returned.

        Raises TrainingError if it cannot be written, or has a later line already; the journal is then unchanged.
        """
        step = record["step"]
        if step in self._records:
            return self._records[step]
        if self._last is not None and step < self._last:
            raise TrainingError(
                f"the journal {str(self.path)!r} has a line for step {self._last} and none for step {step}, which this "
                "run logs before it; put the journal back from a copy, or start a new run"
            )
        line = {**record, "timestamp_ms": time.time_ns() // 1_000_000}
        self._write(json.dumps(line, allow_nan=False).encode() + b"\n")
        self._records[step] = line
        self._last = step
        return line

    def _write(self, line: bytes) -> None:
        """Write a line whole, or not at all."""
        size = self._file.seek(0, os.SEEK_END)
        try:
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(size)
            raise self._unwritten(error) from error

    def _unwritten(self, error: OSError) -> TrainingError:
        return TrainingError(
            f"the journal {self._file.name!r} could not be written: {error.strerror}; make room and use --resume"
        )

    def records(self) -> list[Record]:
        """Return all lines."""
        return list(self._records.values())

    def sync(self) -> None:
        """Flush all lines to disk; TrainingError if that fails."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._unwritten(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


class Reader:
    """Reads a journal while another thread or process may be appending to it."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset, self._lines = path, 0, 0

    def new(self) -> list[Record]:
        """Return complete lines since the last call; RunDirectoryError if one is damaged, or there is no journal."""
        try:
            with open_regular(self._path) as file:
                file.seek(self._offset)
                content = file.read()
        except OSError as error:
            raise _unreadable(self._path, error) from None
        content = content[: content.rfind(b"\n") + 1]
        records = [record for _, record in _parsed(content, self._path, before=self._lines)]
        self._offset += len(content)
        self._lines += len(records)
        return records


def _unreadable(path: Path, error: OSError) -> RunDirectoryError:
    remedy = "restore it from a backup, or start a new run"
    if isinstance(error, PermissionError):
        remedy = "correct its permissions"
    return RunDirectoryError(f"the journal {str(path)!r} cannot be read: {error.strerror}; {remedy}")


def difference(line: Mapping[str, Any], record: Mapping[str, Any]) -> str | None:
    """Return the first training or validation metric in which a record differs from its journal line, or None.

    Metrics that the line does not have, because an earlier version wrote it, are not compared.
    """
    keys = (key for key in record if key.startswith(("train/", "val/")) and key in line)
    return next((key for key in keys if line[key] != record[key]), None)


def _parsed(content: bytes, path: Path, *, before: int = 0) -> Iterator[tuple[bytes, Record]]:
    """Yield each complete line and its record; a last line without a newline was cut short by a crash and is ignored.

    `before` is the number of lines before `content`.
    """
    last = -1
    for number, line in enumerate(content.split(b"\n")[:-1], start=before + 1):
        try:
            record = json.loads(line)
            numbers = all(
                isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
                for value in record.values()
            )
            if not numbers or not isinstance(record["step"], int) or record["step"] <= last:
                raise ValueError
        except (
            ValueError,
            KeyError,
            AttributeError,
            OverflowError,
            RecursionError,
        ):  # OverflowError comes from `isfinite`
            raise RunDirectoryError(
                f"line {number} of the journal {str(path)!r} is damaged: {line[:80]!r}; it cannot be repaired, "
                "so start a new run, or restore the journal from a backup"
            ) from None
        last = record["step"]
        yield line + b"\n", dict(record)
