"""Checksums of blocks of rows, by which the rows that have changed can be named.

The digest of a data set says that rows have changed, but not which. If features are normalised by their statistics, one
changed value changes every stored row a little, so these checksums are those of the values before normalisation.

Of more than MAX_BLOCKS rows, a block has several. Its CRC-32 shows that it has changed, and its parities which of its
rows has: the XOR of the checksums of all its rows, and of those whose place in the block has bit 0, 1, 2, ... set. If
one row has changed, they differ where its place has a 1, all by the same. That is a few hundred kilobytes for any
number of rows; a checksum for each would grow with them.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from distsgd.data.row_checksums import row_checksums

MAX_BLOCKS = 4096
"""Blocks that rows are divided into at most; up to as many rows, each is a block of its own."""


@dataclass(frozen=True)
class RowBlocks:
    """The checksums of each block of consecutive rows: of their features, targets and weights."""

    rows: int
    size: int
    """Rows in a block; the last one may have fewer."""
    sums: tuple[int, ...]
    """The CRC-32 of each block."""
    parities: tuple[int, ...] = ()
    """Those of each block, one after another; none if blocks have one row, or if an earlier version wrote none."""

    def to_json(self) -> dict[str, Any]:
        """Return the checksums in a form that JSON can hold, eight hexadecimal digits for each."""
        parities = {"parities": _text(self.parities)} if self.parities else {}
        return {"rows": self.rows, "size": self.size, "crc32": _text(self.sums), **parities}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """Return what `to_json` has written; ValueError, KeyError or TypeError if it is something else."""
        rows, size, sums, parities = stored["rows"], stored["size"], stored["crc32"], stored.get("parities", "")
        if type(rows) is not int or type(size) is not int or size < 1 or len(sums) != 8 * -(-rows // size):
            raise ValueError("the checksums of the rows do not fit their number")
        if len(parities) not in (0, len(sums) * _parities(size)):
            raise ValueError("the parities of the rows do not fit their number")
        return cls(rows, size, _numbers(sums), _numbers(parities))

    def changed(self, other: RowBlocks) -> list[range]:
        """Return the rows in which another data set of as many rows differs, neighbours joined to one range.

        If several rows of a block have changed, that is the whole block; if blocks have other sizes, it is all rows.
        """
        if self.size != other.size:
            return [range(self.rows)]
        differing = [
            number for number, pair in enumerate(zip(self.sums, other.sums, strict=True)) if pair[0] != pair[1]
        ]
        found: list[range] = []
        for number in differing:
            rows = self._changed_of_block(number, other)
            if found and found[-1].stop == rows.start:
                found[-1] = range(found[-1].start, rows.stop)
            else:
                found.append(rows)
        return found

    def _changed_of_block(self, number: int, other: RowBlocks) -> range:
        """Return the row of a block in which another data set differs, or all of them."""
        rows = range(number * self.size, min(self.rows, (number + 1) * self.size))
        if not (self.parities and other.parities):
            return rows
        part = slice(number * _parities(self.size), (number + 1) * _parities(self.size))
        of_all, *of_bits = (a ^ b for a, b in zip(self.parities[part], other.parities[part], strict=True))
        if of_all == 0 or any(of_bit not in (0, of_all) for of_bit in of_bits):
            return rows
        place = sum(1 << bit for bit, of_bit in enumerate(of_bits) if of_bit)
        return range(rows[place], rows[place] + 1) if place < len(rows) else rows


class BlockSums:
    """Takes in features while they are read, in order and in pieces of any length, and then the targets and weights."""

    def __init__(self, rows: int) -> None:
        self._rows, self._size, self._seen = rows, max(1, -(-rows // MAX_BLOCKS)), 0
        count = -(-rows // self._size)
        self._sums = [0] * count
        self._parities = np.zeros((count, _parities(self._size)), np.uint32)

    def add(self, X: NDArray[Any]) -> None:
        """Take in the next rows' features (n, D)."""
        self._take_in(X, self._seen, column=0)
        self._seen += len(X)

    def blocks(self, *columns: NDArray[Any] | None) -> RowBlocks:
        """Return the checksums once all features are in; `columns` (N, ...) are what else a row has, or None."""
        before = self._sums.copy(), self._parities.copy()
        for number, column in enumerate(columns, start=1):
            if column is not None:
                self._take_in(column, 0, column=number)
        found = RowBlocks(self._rows, self._size, tuple(self._sums), tuple(self._parities.ravel().tolist()))
        self._sums, self._parities = before
        return found

    def _take_in(self, values: NDArray[Any], first: int, *, column: int) -> None:
        """Add values (n, ...) to the sums of the blocks of rows `first` to `first` + n."""
        if not values.size:
            return
        contiguous = np.ascontiguousarray(values)
        content = contiguous.data.cast("B")
        width, stop = len(content) // len(values), first + len(values)
        edges = [first, *range((first // self._size + 1) * self._size, stop, self._size), stop]
        for begin, end in itertools.pairwise(edges):
            block = begin // self._size
            self._sums[block] = zlib.crc32(content[(begin - first) * width : (end - first) * width], self._sums[block])
        if self._size > 1:
            self._add_parities(row_checksums(contiguous, first, column), first, np.array(edges[:-1]) - first)

    def _add_parities(self, checksums: NDArray[np.uint32], first: int, starts: NDArray[Any]) -> None:
        """Add the checksums (n,) of the rows from `first` on, whose blocks begin at `starts`."""
        block = first // self._size
        found = self._parities[block : block + len(starts)]
        places = (np.arange(first, first + len(checksums)) % self._size).astype(np.uint32)
        found[:, 0] ^= np.bitwise_xor.reduceat(checksums, starts)
        for bit in range(found.shape[1] - 1):
            is_set = places >> np.uint32(bit) & np.uint32(1)
            found[:, bit + 1] ^= np.bitwise_xor.reduceat(checksums * is_set, starts)


def _parities(size: int) -> int:
    """Return the number of parities of a block of so many rows."""
    return 0 if size == 1 else 1 + (size - 1).bit_length()


def _text(numbers: tuple[int, ...]) -> str:
    return "".join(f"{number:08x}" for number in numbers)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(text[start : start + 8], 16) for start in range(0, len(text), 8))
