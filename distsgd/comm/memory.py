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
from typing import Any

import numpy as np

FLOAT32 = np.dtype(np.float32)

ALIGNMENT = 64
"""Alignment of the rows of a segment, in bytes: a cache line, and the widest vector register."""

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


@dataclass(frozen=True)
class Segment:
    """Rows of numbers in shared memory."""

    rows: np.ndarray
    """(count, width); each row begins on a cache line."""

    descriptor: int
    """The memfd; the process that created the segment keeps it open to send it to others."""

    @classmethod
    def create(cls, count: int, width: int, dtype: np.dtype[Any] = FLOAT32) -> Segment:
        """Return a new segment of zeros; its pages use memory only once they are written to."""
        descriptor = os.memfd_create("distsgd", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(descriptor, _size(count, width, dtype))
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
            return cls(_rows(descriptor, count, width, dtype, writable=True), descriptor)
        except BaseException:
            os.close(descriptor)
            raise

    @classmethod
    def attach(
        cls, descriptor: int, count: int, width: int, dtype: np.dtype[Any] = FLOAT32, *, writable: bool
    ) -> Segment:
        """Map the segment behind a descriptor that was received from the process that created it.

        Raise ValueError if its size is not the expected one or is not sealed.
        """
        size, expected = os.fstat(descriptor).st_size, _size(count, width, dtype)
        if size != expected:
            raise ValueError(f"a shared memory segment has {size} bytes, not {expected}")
        try:
            sealed = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & _SEALS == _SEALS
        except OSError:  # a file, or something else without seals
            sealed = False
        if not sealed:
            raise ValueError("a shared memory segment could change its size while it is in use")
        return cls(_rows(descriptor, count, width, dtype, writable=writable), descriptor)

    def close(self) -> None:
        """Close the descriptor; the memory stays as long as an array or another process uses it."""
        os.close(self.descriptor)


def _size(count: int, width: int, dtype: np.dtype[Any]) -> int:
    return max(count * _stride(width, dtype) * dtype.itemsize, 1)


def _stride(width: int, dtype: np.dtype[Any]) -> int:
    """Return the distance between the starts of two rows, in numbers."""
    per_line = ALIGNMENT // dtype.itemsize
    return -(-width // per_line) * per_line


def _rows(descriptor: int, count: int, width: int, dtype: np.dtype[Any], *, writable: bool) -> np.ndarray:
    size, protection = os.fstat(descriptor).st_size, mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    memory = mmap.mmap(descriptor, size, mmap.MAP_SHARED, protection)
    stride = _stride(width, dtype)
    return np.frombuffer(memory, dtype, count * stride).reshape(count, stride)[:, :width]
