"""Which rows a shard of a step consists of: pure functions of the seed, the step, the shard and the number of rows.

There is no generator state: any process can compute the rows of any shard of any step, at any time, in constant
memory beyond the answer. The order of an epoch is a keyed bijection on [0, N): an alternating (unbalanced) Feistel
network on the next power of two, with cycle walking back into the range (Black and Rogaway, "Ciphers with arbitrary
finite domains", 2002; used for shuffling by Mitchell et al., "Bandwidth-optimal random shuffling for GPUs", 2022).
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
Words = NDArray[np.uint64]

SPLIT_STREAM = 2**63
"""The stream of the hold-out split; that of an epoch is its number."""

ROUNDS = 16
"""Half-rounds of the network: with 12 or fewer, the orders of six rows were measurably not uniform."""

_GOLDEN = 0x9E3779B97F4A7C15
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)  # Stafford's mix 13, the finaliser of SplitMix64
_WORD = 2**64


def mix(word: int) -> int:
    """Return SplitMix64's finaliser of a 64-bit word: a bijection in which every bit depends on every bit."""
    word = ((word ^ (word >> 30)) * _MULTIPLIERS[0]) % _WORD
    word = ((word ^ (word >> 27)) * _MULTIPLIERS[1]) % _WORD
    return word ^ (word >> 31)


def derive_key(*parts: int) -> int:
    """Return a 64-bit key for a sequence of integers, such as (seed, epoch)."""
    key = 0
    for part in parts:
        key = mix((key + _GOLDEN + part) % _WORD)
    return key


def _mix_words(words: Words) -> None:
    """Apply `mix` to every word in place."""
    for shift, multiplier in zip((30, 27), _MULTIPLIERS, strict=True):
        words ^= words >> np.uint64(shift)
        words *= np.uint64(multiplier)
    words ^= words >> np.uint64(31)


@functools.lru_cache(maxsize=8)
def _round_keys(seed: int, streams: range) -> NDArray[np.uint32]:
    """Return the keys of all rounds (ROUNDS, S): the high halves of `derive_key(derive_key(seed, stream), number)`."""
    keys = np.array([derive_key(seed, stream) for stream in streams], np.uint64) + np.uint64(_GOLDEN)
    _mix_words(keys)
    words = keys + (np.uint64(_GOLDEN) + np.arange(ROUNDS, dtype=np.uint64)[:, None])
    _mix_words(words)
    return (words >> np.uint64(32)).astype(np.uint32)


def _feistel(round_keys: NDArray[np.uint32], bits: int, words: Words) -> Words:
    """Return the keyed bijection on [0, 2^bits) of every word; the keys (ROUNDS, ...) are broadcast against words.

    Halves have at most 32 bits, and processors multiply vectors of such words three times as fast as of longer ones;
    the round function is the finaliser of MurmurHash3 (Appleby, 2011) after the addition of the round's key.
    """
    low_bits = np.uint64(bits // 2)
    masks = (np.uint32((1 << (bits - bits // 2)) - 1), np.uint32((1 << (bits // 2)) - 1))
    halves = [(words >> low_bits).astype(np.uint32), words.astype(np.uint32) & masks[1]]
    shifted = np.empty_like(halves[0])
    for number, round_key in enumerate(round_keys):
        changed, read = number % 2, 1 - number % 2
        scrambled = halves[read] + round_key
        for shift, multiplier in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
            scrambled ^= np.right_shift(scrambled, np.uint32(shift), out=shifted)
            scrambled *= np.uint32(multiplier)
        scrambled ^= np.right_shift(scrambled, np.uint32(16), out=shifted)
        scrambled &= masks[changed]
        halves[changed] ^= scrambled
    return (halves[0].astype(np.uint64) << low_bits) | halves[1]


def keyed_permutation(seed: int, stream: int, size: int, positions: IntArray) -> IntArray:
    """Return the numbers at `positions` (n,) in the random order of [0, size) that belongs to (seed, stream).

    Over all positions of [0, size) this is a permutation. The time for one position does not depend on `size`:
    the network's domain is less than twice as large, so cycle walking takes fewer than two turns on average.
    """
    numbers: IntArray = keyed_permutations(seed, range(stream, stream + 1), size, positions)[0]
    return numbers


def keyed_permutations(seed: int, streams: range, size: int, positions: IntArray) -> IntArray:
    """Return (S, n): a row `keyed_permutation` for each stream; many short ones at once cost little more than one."""
    if size == 1:
        return np.zeros((len(streams), len(positions)), np.int64)
    bits, limit = (size - 1).bit_length(), np.uint64(size)
    keys = _round_keys(seed, streams)[:, :, None]  # (ROUNDS, S, 1)
    words = _feistel(keys, bits, np.repeat(positions.astype(np.uint64)[None], len(streams), axis=0)).reshape(-1)
    outside = np.flatnonzero(words >= limit)
    while outside.size:
        own_keys = keys[:, :, 0] if len(streams) == 1 else keys[:, outside // len(positions), 0]
        words[outside] = _feistel(own_keys, bits, words[outside])
        outside = outside[words[outside] >= limit]
    return words.astype(np.int64).reshape(len(streams), -1)


def keyed_draws(seed: int, stream: int, size: int, positions: IntArray) -> IntArray:
    """Return independent uniform draws (n,) from [0, size), one for each of `positions` (n,).

    The 64-bit hash's high 32 bits are scaled by a multiplication (Lemire, "Fast random integer generation in an
    interval", 2019); for size below 2^31 a row's probability is off by less than 2^-32 of one.
    """
    words = positions.astype(np.uint64) + np.uint64(derive_key(seed, stream))
    _mix_words(words)
    words += np.uint64(_GOLDEN)
    _mix_words(words)
    words >>= np.uint64(32)
    words *= np.uint64(size)
    words >>= np.uint64(32)
    return words.astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """Which rows each shard of each step consists of.

    A mini-batch is `batch_size` consecutive positions of its epoch, the last one of an epoch has the remaining ones; it
    is cut into `num_shards` runs of consecutive positions whose sizes differ by one at most.
    """

    rows: int
    batch_size: int
    num_shards: int
    seed: int
    replacement: bool = False

    @functools.cached_property
    def steps_per_epoch(self) -> int:
        """Steps in an epoch, a pass over the N rows."""
        return -(-self.rows // self.batch_size)

    def batch_bounds(self, step: int) -> tuple[int, int]:
        """Return the first and one past the last position, within its epoch, of step `step` (from 0)."""
        start = step % self.steps_per_epoch * self.batch_size
        return start, min(start + self.batch_size, self.rows)

    def batch_count(self, step: int) -> int:
        """Return the number of examples in the mini-batch of `step`."""
        start, stop = self.batch_bounds(step)
        return stop - start

    def shard_bounds(self, step: int, shard: int) -> tuple[int, int]:
        """Return the first and one past the last position, within its epoch, of a shard."""
        start, stop = self.batch_bounds(step)
        count = stop - start
        return start + count * shard // self.num_shards, start + count * (shard + 1) // self.num_shards

    def shard_rows(self, steps: range, shards: range, *, joined: bool = False) -> list[IntArray]:
        """Return the rows of each shard, ordered by step and then by shard, of consecutive steps.

        If they are `joined`, return those of all `shards` of a step in one array. The steps are of one epoch, or of
        several whole ones. Asking for many at once costs little more than for one.
        """
        runs, ends = [], [0]
        cuts = range(shards.start, shards.stop + 1, len(shards) if joined else 1)
        epochs = range(steps.start // self.steps_per_epoch, -(-steps.stop // self.steps_per_epoch))
        for step in steps[: self.steps_per_epoch]:
            begin, stop = self.batch_bounds(step)
            edges = [begin + (stop - begin) * edge // self.num_shards for edge in cuts]
            runs.append(np.arange(edges[0], edges[-1]))
            ends += [ends[-1] + edge - edges[0] for edge in edges[1:]]
        positions = np.concatenate(runs)
        if self.replacement:
            drawn = [keyed_draws(self.seed, epoch, self.rows, positions) for epoch in epochs]
        else:
            drawn = list(keyed_permutations(self.seed, epochs, self.rows, positions))
        return [rows[start:end] for rows in drawn for start, end in itertools.pairwise(ends)]

    @property
    def shard_counts(self) -> set[int]:
        """The numbers of examples, other than 0, that a shard may hold."""
        counts = {self.batch_count(0), self.batch_count(self.steps_per_epoch - 1)}
        return {count // self.num_shards + extra for count in counts for extra in (0, count % self.num_shards > 0)} - {
            0
        }

    @property
    def max_shard_count(self) -> int:
        """The largest number of examples in any shard."""
        return -(-min(self.batch_size, self.rows) // self.num_shards)


FOREVER = 2**63 - 1
"""More steps than any run has."""

PREFETCHED_ROWS = 65536
"""How many row numbers are computed at a time: 65 ns each. With 8,192 it was 180, because the last turns of the cycle
walks take as long for a few numbers."""


class PrefetchedRows:
    """`Sampler.shard_rows`, computed for several steps in advance, but not beyond the `end` of a run in steps."""

    def __init__(self, sampler: Sampler, end: int | None = None, *, joined: bool = False) -> None:
        """If the rows of several shards are `joined`, they are in one array."""
        self._sampler, self._end, self._joined = sampler, FOREVER if end is None else end, joined
        self._rows: dict[int, list[IntArray]] = {}
        self._shards = range(0)

    def of(self, step: int, shards: range) -> list[IntArray]:
        """Return the rows of each of `shards` in `step`, or those of all in one array."""
        if shards != self._shards or step not in self._rows:
            sampler, count = self._sampler, len(shards)
            a_step, an_epoch = max(1, sampler.batch_count(step) * count // sampler.num_shards), sampler.steps_per_epoch
            stop = step + max(1, min(PREFETCHED_ROWS // a_step, self._end - step))
            begin = step - step % an_epoch  # of the epoch
            whole = (stop - begin) // an_epoch * an_epoch if step == begin else 0
            steps = range(step, begin + whole if whole else min(stop, begin + an_epoch))
            rows = sampler.shard_rows(steps, shards, joined=self._joined)
            arrays = 1 if self._joined else count
            self._rows = {s: rows[i * arrays : (i + 1) * arrays] for i, s in enumerate(steps)}
            self._shards = shards
        return self._rows[step]
