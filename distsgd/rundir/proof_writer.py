"""Writes the proof of a run while it trains; see proof.py for what is in it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from distsgd.engine.snapshot import Snapshot
from distsgd.errors import RunDirectoryError, TrainingError
from distsgd.rundir import proof
from distsgd.system.files import open_regular


class ProofWriter:
    """Appends a line for each validated step; without a file, of a run that began without a proof, it does nothing."""

    def __init__(
        self, path: Path, journal: Path, file: BinaryIO | None, found: proof.Proof, numerics: Mapping[str, str]
    ) -> None:
        self._path, self._file, self._numerics = path, file, dict(numerics)
        self._lines, self._sizes = found.lines, found.sizes
        self._journal = JournalFile(journal)
        self.problem: str | None = None
        """Why the proof is not continued; None if it is, or was never begun."""

    @classmethod
    def open(
        cls,
        folder: Path,
        journal: Path,
        start: Snapshot,
        begin: Callable[[], Mapping[str, Any]],
        numerics: Mapping[str, str],
    ) -> ProofWriter:
        """Open the proof of a run that begins at the state `start`, or goes on from there, here with this arithmetic.

        Lines of later steps, which are taken again, are removed. `begin` returns the first line of a new proof; a run
        of an earlier version has none, and gets none in its middle. RunDirectoryError if the file cannot be read,
        TrainingError if it cannot be written.
        """
        path = folder / proof.FILE
        try:
            found = proof.read(path)
            if found is None and start.step > 0:
                return cls(path, journal, None, proof.Proof([]), numerics)
            file = open_regular(path, "a+b")
        except OSError as error:
            raise RunDirectoryError(
                f"the proof {str(path)!r} cannot be read: {error.strerror}; restore it from a backup, or move it away "
                "and go on without one"
            ) from None
        writer = cls(path, journal, file, found or proof.Proof([]), numerics)
        try:
            if found is not None and not _is_whole(found, start.step):
                writer.problem = (
                    f"{found.problem}, so the proof is not continued; `distsgd verify` says what has changed"
                )
                writer.close()
            else:
                writer.rewind(start.step)
                if not writer._lines:
                    writer._write(begin())
        except BaseException:
            writer.close()
            raise
        return writer

    @property
    def numerics(self) -> dict[str, str] | None:
        """The fingerprint of the arithmetic that the last line was computed with; None without a line."""
        return next((line["numerics"] for line in reversed(self._lines) if "numerics" in line), None)

    def rewind(self, step: int) -> None:
        """Remove the lines of steps after `step`, which are to be taken again. TrainingError if that fails."""
        if self._file is None:
            return
        keep = sum(line["step"] <= step for line in self._lines)
        del self._lines[keep:], self._sizes[keep:]
        try:
            self._file.truncate(self._sizes[-1] if self._sizes else 0)
            self._journal.rewind()
            if self._lines:
                self._journal.read_to(self._lines[-1]["step"])
        except OSError as error:
            raise _unwritten(self._path, error) from error

    def append(self, snapshot: Snapshot) -> None:
        """Write the line of a state whose record is in the journal, to the disk; nothing if it has one already.

        TrainingError if it cannot be written.
        """
        if self._file is None or snapshot.step <= self._lines[-1]["step"]:
            return
        try:
            lines = self._journal.read_to(snapshot.step)
        except OSError as error:
            raise _unwritten(self._path, error) from error
        self._write(
            proof.following(
                self._lines[-1],
                snapshot,
                [json.loads(line) for line in lines],
                journal=self._journal.digest,
                lines="".join(f"{zlib.crc32(line):08x}" for line in lines),
                numerics=None if self.numerics == self._numerics else self._numerics,
            )
        )

    def _write(self, line: Mapping[str, Any]) -> None:
        assert self._file is not None
        content = proof.encoded(line)
        try:
            if self._file.write(content) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file.fileno())
        except OSError as error:
            raise _unwritten(self._path, error) from error
        self._lines.append(dict(line))
        self._sizes.append((self._sizes[-1] if self._sizes else 0) + len(content))

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _is_whole(found: proof.Proof, step: int) -> bool:
    """Return whether the lines up to `step` are as they were written, and what was begun after them may be removed."""
    if found.problem is None or (found.is_cut and (found.lines or step == 0)):
        return True
    return bool(found.lines) and found.lines[-1]["step"] >= step


def _unwritten(path: Path, error: OSError) -> TrainingError:
    return TrainingError(f"the proof {str(path)!r} could not be written: {error.strerror}; make room and use --resume")


class JournalFile:
    """The journal's file as it is on the disk, read line by line and hashed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.rewind()

    def rewind(self) -> None:
        """Begin again with the first line."""
        self._offset, self._sha = 0, hashlib.sha256()

    @property
    def digest(self) -> str:
        """The SHA-256 of all lines that have been read."""
        return self._sha.hexdigest()

    def read_to(self, step: int) -> list[bytes]:
        """Return the next lines, up to that of `step`; OSError if the journal cannot be read."""
        found: list[bytes] = []
        with open_regular(self._path) as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n") or json.loads(line)["step"] > step:
                    break
                found.append(line)
                self._offset += len(line)
                self._sha.update(line)
        return found
