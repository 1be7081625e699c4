"""Anonymous memory shared between processes on one node; it is freed when the last process that uses it ends.

A segment is a `memfd`: it has no name, so nothing can be left behind in /dev/shm or /tmp. Its descriptor is sent to
another process over a Unix socket (unix_socket.py). Its size is sealed: if a holder of the descriptor could shrink it,
an access beyond the new end would kill the process that makes it.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from dataclasses import dataclass

import numpy as np

ALIGNMENT = 64
"""Alignment of the rows of a segment, in bytes: a cache line, and the widest vector register."""

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


@dataclass(frozen=True)
class Segment:
    """Rows of float32 in shared memory."""

    rows: np.ndarray
    """(count, width) float32; each row begins on a cache line."""

    descriptor: int
    """The memfd; the process that created the segment keeps it open to send it to others."""

    @classmethod
    def create(cls, count: int, width: int) -> Segment:
        """Return a new segment of zeros; its pages use memory only once they are written to."""
        descriptor = os.memfd_create("distsgd", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(descriptor, max(count * _stride(width) * 4, 1))
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
            return cls(_rows(descriptor, count, width, writable=True), descriptor)
        except BaseException:
            os.close(descriptor)
            raise

    @classmethod
    def attach(cls, descriptor: int, count: int, width: int, *, writable: bool) -> Segment:
        """Map the segment behind a descriptor that was received from the process that created it.

        Raise ValueError if its size is not the expected one or is not sealed.
        """
        size, expected = os.fstat(descriptor).st_size, max(count * _stride(width) * 4, 1)
        if size != expected:
            raise ValueError(f"a shared memory segment has {size} bytes, not {expected}")
        try:
            sealed = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & _SEALS == _SEALS
        except OSError:  # a file, or something else without seals
            sealed = False
        if not sealed:
            raise ValueError("a shared memory segment could change its size while it is in use")
        return cls(_rows(descriptor, count, width, writable=writable), descriptor)

    def close(self) -> None:
        """Close the descriptor; the memory stays as long as an array or another process uses it."""
        os.close(self.descriptor)


def _stride(width: int) -> int:
    """Return the distance between the starts of two rows, in numbers."""
    per_line = ALIGNMENT // 4
    return -(-width // per_line) * per_line


def _rows(descriptor: int, count: int, width: int, *, writable: bool) -> np.ndarray:
    size, protection = os.fstat(descriptor).st_size, mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    memory = mmap.mmap(descriptor, size, mmap.MAP_SHARED, protection)
    stride = _stride(width)
    return np.frombuffer(memory, np.float32, count * stride).reshape(count, stride)[:, :width]
