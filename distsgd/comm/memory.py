"""Memory that two processes of one node share: anonymous, owned by whoever made it, gone with its last user.

A segment is a `memfd`: it has no name, so nothing can be left behind in /dev/shm or /tmp. Its descriptor is sent to
another process over a Unix socket (unix_socket.py). Its size is sealed, so that no holder of the descriptor can turn an
access inside the segment into one beyond its end, which would kill the process that makes it.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from dataclasses import dataclass

import numpy as np

ALIGNMENT = 64
"""Bytes that every row of a segment begins at a multiple of: a cache line, and the widest vector register."""

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


@dataclass(frozen=True)
class Segment:
    """Rows of float32 in shared memory."""

    rows: np.ndarray
    """(count, width) float32; each row begins on a cache line."""

    descriptor: int
    """The memfd; the segment's maker keeps it open to hand it out."""

    @classmethod
    def create(cls, count: int, width: int) -> Segment:
        """Return a new segment of zeros; its pages take up memory only once they are written to."""
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
        """Map the segment behind a descriptor that came from its maker.

        Raises ValueError if it has another size, or if its size is not sealed.
        """
        size, expected = os.fstat(descriptor).st_size, max(count * _stride(width) * 4, 1)
        if size != expected:
            raise ValueError(f"a shared memory segment has {size} bytes, not {expected}")
        try:
            sealed = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & _SEALS == _SEALS
        except OSError:  # it is a file, or something else that has no seals
            sealed = False
        if not sealed:
            raise ValueError("a shared memory segment could change its size while it is used")
        return cls(_rows(descriptor, count, width, writable=writable), descriptor)

    def close(self) -> None:
        """Close the descriptor; the memory stays as long as an array or another process uses it."""
        os.close(self.descriptor)


def _stride(width: int) -> int:
    """Return the numbers from one row's begin to the next one's."""
    per_line = ALIGNMENT // 4
    return -(-width // per_line) * per_line


def _rows(descriptor: int, count: int, width: int, *, writable: bool) -> np.ndarray:
    size, protection = os.fstat(descriptor).st_size, mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    memory = mmap.mmap(descriptor, size, mmap.MAP_SHARED, protection)
    stride = _stride(width)
    return np.frombuffer(memory, np.float32, count * stride).reshape(count, stride)[:, :width]
