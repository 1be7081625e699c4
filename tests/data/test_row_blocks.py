"""Checksums of rows do not depend on how they are read, and name the rows that have changed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distsgd.data import blocks
from distsgd.data.blocks import BlockSums, RowBlocks


def sums(X: np.ndarray, y: np.ndarray, cuts: list[int]) -> RowBlocks:
    """Return the checksums of rows that come in pieces."""
    found, edges = BlockSums(len(X)), sorted({0, len(X), *(cut % (len(X) + 1) for cut in cuts)})
    for start, stop in itertools.pairwise(edges):
        found.add(X[start:stop])
    return found.blocks(y, None)


@given(
    st.integers(1, 60), st.integers(1, 12), st.lists(st.integers(0, 100), max_size=5), st.integers(0, 2**31), st.data()
)
def test_a_changed_bit_names_its_row_whatever_the_pieces_are(rows, most, cuts, seed, data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "MAX_BLOCKS", most)
        rng = np.random.default_rng(seed)
        X, y = rng.normal(size=(rows, 3)).astype(np.float32), rng.integers(0, 5, rows)
        before = sums(X, y, cuts)
        assert before == sums(X, y, [])
        assert len(before.sums) <= most
        assert RowBlocks.from_json(before.to_json()) == before
        assert before.changed(before) == []
        row, bit = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, 95))
        X.view(np.uint32)[row, bit // 32] ^= np.uint32(1 << bit % 32)
        assert before.changed(sums(X, y, cuts)) == [range(row, row + 1)]
        y[row] += 1
        assert before.changed(sums(X, y, cuts)) == [range(row, row + 1)]
        other = data.draw(st.integers(0, rows - 1))
        y[other] += 1
        found = before.changed(sums(X, y, cuts))
        assert all(any(number in part for part in found) for number in {row, other})
        assert all({row, other} & set(part) for part in found)
        of_earlier_version = RowBlocks.from_json({**before.to_json(), "parities": ""})
        (block,) = of_earlier_version.changed(sums(X, y, cuts))[:1]
        assert min(row, other) // before.size * before.size == block.start


@pytest.mark.parametrize("dtype", ["u1", "u2", "i8", "f4", "f8", "?"])
@pytest.mark.parametrize("width", [1, 3, 8, 9])
def test_equal_changes_of_equal_rows_do_not_look_like_that_of_another_row(dtype, width):
    X = np.ones((40_000, width), dtype)
    y = np.zeros(len(X), np.int64)
    before = sums(X, y, [])
    assert len(before.to_json()["parities"]) == 8 * 4000 * (1 + 4)
    X[[20, 21, 23]] = 0
    assert before.changed(sums(X, y, [])) == [range(20, 30)]
    X[[20, 21]] = 1
    assert before.changed(sums(X, y, [])) == [range(23, 24)]


def test_neighbouring_blocks_are_joined():
    a = RowBlocks(10, 2, (1, 2, 3, 4, 5))
    b = RowBlocks(10, 2, (1, 0, 0, 4, 0))
    assert a.changed(b) == [range(2, 6), range(8, 10)]


@pytest.mark.parametrize(
    "stored",
    [
        {},
        {"rows": 3, "size": 0, "crc32": ""},
        {"rows": 3, "size": 1, "crc32": "0" * 16},
        {"rows": 1, "size": 1, "crc32": "x" * 8},
        {"rows": 2, "size": 2, "crc32": "0" * 8, "parities": "0" * 8},
    ],
)
def test_what_is_no_list_of_checksums_is_refused(stored):
    with pytest.raises((ValueError, KeyError)):
        RowBlocks.from_json(stored)


def test_blocks_of_another_size_name_all_rows():
    X, y = np.ones((30, 2), np.float32), np.zeros(30, int)
    whole = sums(X, y, [])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "MAX_BLOCKS", 3)
        assert whole.changed(sums(X, y, [])) == [range(30)]
