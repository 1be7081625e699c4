"""A checksum of each row of an array, all rows at once: for so many rows, a call for each would take too long."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

WORD = 8
"""Bytes that are taken at once."""


def row_checksums(rows: NDArray[np.generic], first: int, column: int) -> NDArray[np.uint32]:
    """Return 32 bits for each of the rows (n, ...), a C-contiguous array whose row 0 is row `first` of all.

    Rows of equal content have other checksums at other places, and in other columns: the XOR of several thus shows
    which rows are among them. The bytes are summed as words of 64 bits times random odd numbers, so that any change of
    one word changes the sum, which is then mixed with the place.
    """
    count = len(rows)
    width = rows.nbytes // count
    words, rest = divmod(width, WORD)
    sums = np.zeros(count, np.uint64)
    if words:
        whole = np.ndarray((count, words), np.uint64, rows.data, strides=(width, WORD))
        sums += whole @ _factors(words, column)
    if rest:
        padded = np.zeros((count, WORD), np.uint8)
        padded[:, :rest] = np.ndarray((count, rest), np.uint8, rows.data, words * WORD, strides=(width, 1))
        sums += padded.view(np.uint64)[:, 0] * _factors(words + 1, column)[-1]
    sums += np.arange(first, first + count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return (_mixed(sums) >> np.uint64(32)).astype(np.uint32)


@functools.lru_cache(maxsize=16)
def _factors(count: int, column: int) -> NDArray[np.uint64]:
    numbers = np.arange(count, dtype=np.uint64) + np.uint64((column + 1) << 40)
    return _mixed(numbers * np.uint64(0x9E3779B97F4A7C15)) | np.uint64(1)


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return numbers each bit of which depends on all bits of a value: the end of a step of SplitMix64."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
