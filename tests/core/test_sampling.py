"""Which rows a shard holds: every row once an epoch, in an order that looks random, at any position at once."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from distsgd.core import sampling
from distsgd.core.sampling import SPLIT_STREAM, PrefetchedRows, Sampler, derive_key, keyed_draws, keyed_permutation, mix

SEEDS = st.integers(0, 2**63 - 1)
STREAMS = st.one_of(st.integers(0, 10_000), st.just(SPLIT_STREAM))


def permutation(seed: int, stream: int, size: int) -> np.ndarray:
    return keyed_permutation(seed, stream, size, np.arange(size))


def deviations(counts: np.ndarray, expected: float) -> float:
    """Return how many standard deviations the chi-square statistic of `counts` lies above or below its mean."""
    square = ((counts - expected) ** 2 / expected).sum()
    freedom = counts.size - 1
    return float((square - freedom) / math.sqrt(2 * freedom))


@given(seed=SEEDS, stream=STREAMS, size=st.integers(1, 3000))
def test_an_order_is_a_permutation(seed, stream, size):
    assert np.array_equal(np.sort(permutation(seed, stream, size)), np.arange(size))


@pytest.mark.parametrize("size", [2**k + d for k in (1, 2, 3, 7, 10, 13) for d in (-1, 0, 1)])
def test_an_order_is_a_permutation_at_and_beside_powers_of_two(size):
    for seed in range(5):
        assert np.array_equal(np.sort(permutation(seed, 1, size)), np.arange(size))


@given(seed=SEEDS, stream=STREAMS, size=st.integers(1, 2**40), data=st.data())
def test_any_position_can_be_computed_alone(seed, stream, size, data):
    positions = np.array(data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=8)))
    together = keyed_permutation(seed, stream, size, positions)
    alone = [int(keyed_permutation(seed, stream, size, np.array([p]))[0]) for p in positions]
    assert together.tolist() == alone
    assert together.min() >= 0
    assert together.max() < size
    assert len(set(together.tolist())) == len(set(positions.tolist()))


def test_the_time_for_a_position_does_not_depend_on_the_number_of_rows(monkeypatch):
    """Counted in words that go through the network: fewer than two for each position, for any number of rows."""
    scrambled = 0
    real = sampling._feistel

    def counting(key, bits, words):
        nonlocal scrambled
        scrambled += words.size
        return real(key, bits, words)

    monkeypatch.setattr(sampling, "_feistel", counting)
    positions = np.arange(1000)
    for size in (1001, 2**20 + 1, 2**33 + 1, 2**40 + 1):
        scrambled = 0
        keyed_permutation(7, 0, size, positions)
        assert 1000 <= scrambled < 2500


def test_all_orders_of_four_rows_are_equally_likely():
    orders = np.array([permutation(seed, epoch, 4) for seed in range(60) for epoch in range(40)])
    _, counts = np.unique(orders @ [64, 16, 4, 1], return_counts=True)
    assert counts.size == 24
    assert abs(deviations(counts, len(orders) / 24)) < 4


@pytest.mark.parametrize("size", [5, 97, 400])
def test_every_position_gets_every_row_equally_often(size):
    positions = np.unique([0, 1, size // 2, size - 1])
    epochs = min(20 * size, 2000)
    counts = np.zeros((len(positions), size))
    for epoch in range(epochs):
        counts[np.arange(len(positions)), keyed_permutation(3, epoch, size, positions)] += 1
    for row in counts:
        assert abs(deviations(row, row.sum() / size)) < 4.5


def test_an_order_has_no_memory_of_the_stored_one():
    size = 10_000
    order = permutation(1, 0, size)
    assert abs(np.corrcoef(order, np.arange(size))[0, 1]) < 4 / math.sqrt(size)
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 4 / math.sqrt(size)
    assert np.count_nonzero(np.diff(order) == 1) < 8  # one is expected
    assert np.count_nonzero(order == np.arange(size)) < 8


@given(seed=SEEDS, stream=st.integers(0, 1000), size=st.integers(30, 2000))
def test_neighbouring_epochs_and_seeds_have_other_orders(seed, stream, size):
    assume(seed < 2**63 - 1)
    one = permutation(seed, stream, size)
    for other in (permutation(seed, stream + 1, size), permutation(seed + 1, stream, size)):
        assert np.count_nonzero(one == other) < 20  # one is expected


def test_keys_depend_on_every_part_and_on_their_order():
    keys = [
        derive_key(*parts) for parts in [(0,), (0, 0), (1, 0), (0, 1), (1, 1), (0, 0, 0), (2**63 - 1, SPLIT_STREAM)]
    ]
    assert len(set(keys)) == len(keys)
    assert all(0 <= key < 2**64 for key in keys)


def test_mix_is_the_finaliser_of_splitmix64():
    """The first outputs of the published generator with the seed 1234567."""
    golden = 0x9E3779B97F4A7C15
    found = [mix((1234567 + golden * n) % 2**64) for n in (1, 2, 3)]
    assert found == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@given(seed=SEEDS, stream=STREAMS, size=st.integers(1, 2**31))
def test_draws_are_in_range_and_can_be_asked_alone(seed, stream, size):
    positions = np.arange(20)
    draws = keyed_draws(seed, stream, size, positions)
    assert draws.min() >= 0
    assert draws.max() < size
    assert draws[7] == keyed_draws(seed, stream, size, positions[7:8])[0]


@pytest.mark.parametrize("size", [2, 7, 64, 1000])
def test_draws_are_uniform_and_independent(size):
    draws = keyed_draws(5, 2, size, np.arange(200 * size))
    assert abs(deviations(np.bincount(draws, minlength=size), 200)) < 4
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 4 / math.sqrt(draws.size)
    other = keyed_draws(5, 3, size, np.arange(200 * size))
    assert abs(np.corrcoef(draws, other)[0, 1]) < 4 / math.sqrt(draws.size)


def make_sampler(rows, batch_size, num_shards, seed=0, replacement=False):
    return Sampler(rows=rows, batch_size=batch_size, num_shards=num_shards, seed=seed, replacement=replacement)


@st.composite
def samplers(draw):
    num_shards = draw(st.integers(1, 9))
    batch_size = draw(st.integers(num_shards, 60))
    rows, seed = draw(st.integers(1, 200)), draw(SEEDS)
    return make_sampler(rows, batch_size, num_shards, seed, draw(st.booleans()))


@given(sampler=samplers(), epoch=st.integers(0, 5))
def test_every_row_comes_exactly_once_in_an_epoch(sampler, epoch):
    assume(not sampler.replacement)
    steps = range(epoch * sampler.steps_per_epoch, (epoch + 1) * sampler.steps_per_epoch)
    shards = sampler.shard_rows(steps, range(sampler.num_shards))
    assert np.array_equal(np.sort(np.concatenate(shards)), np.arange(sampler.rows))
    order = keyed_permutation(sampler.seed, epoch, sampler.rows, np.arange(sampler.rows))
    assert np.array_equal(np.concatenate(shards), order)


@given(sampler=samplers(), step=st.integers(0, 500))
def test_a_shard_alone_is_a_slice_of_its_batch(sampler, step):
    whole = sampler.shard_rows(range(step, step + 1), range(sampler.num_shards))
    assert sum(map(len, whole)) == sampler.batch_count(step)
    assert max(map(len, whole)) <= sampler.max_shard_count
    assert max(map(len, whole)) - min(map(len, whole)) <= 1
    start, _ = sampler.batch_bounds(step)
    for shard, rows in enumerate(whole):
        assert np.array_equal(sampler.shard_rows(range(step, step + 1), range(shard, shard + 1))[0], rows)
        lo, hi = sampler.shard_bounds(step, shard)
        assert (lo - start, hi - lo) == (sum(map(len, whole[:shard])), len(rows))


@given(sampler=samplers(), step=st.integers(0, 500))
def test_batches_are_full_but_for_the_last_of_an_epoch(sampler, step):
    within = step % sampler.steps_per_epoch
    last = within == sampler.steps_per_epoch - 1
    left = sampler.rows - within * sampler.batch_size
    assert sampler.batch_count(step) == (left if last else sampler.batch_size)
    assert 1 <= sampler.batch_count(step) <= sampler.batch_size


def test_a_batch_larger_than_the_set_is_the_set():
    sampler = make_sampler(10, 64, 4)
    assert sampler.steps_per_epoch == 1
    assert [len(rows) for rows in sampler.shard_rows(range(3, 4), range(4))] == [2, 3, 2, 3]


def test_replacement_draws_some_rows_twice_and_some_never():
    sampler = make_sampler(1000, 50, 5, replacement=True)
    rows = np.concatenate(sampler.shard_rows(range(20), range(5)))
    different = len(np.unique(rows)) / 1000
    assert different == pytest.approx(1 - math.exp(-1), abs=0.05)


@given(
    sampler=samplers(),
    steps=st.lists(st.integers(0, 60), min_size=1, max_size=12),
    end=st.one_of(st.none(), st.integers(0, 70)),
    data=st.data(),
)
def test_prefetched_rows_equal_the_samplers_for_any_requests(sampler, steps, end, data):
    ahead = PrefetchedRows(sampler, end)
    runs = st.tuples(st.integers(0, sampler.num_shards - 1), st.integers(1, sampler.num_shards))
    for step in steps:
        start, count = data.draw(runs)
        shards = range(start, min(start + count, sampler.num_shards))
        expected = sampler.shard_rows(range(step, step + 1), shards)
        found = ahead.of(step, shards)
        assert len(found) == len(expected)
        assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_prefetched_rows_are_computed_for_many_steps_at_once_within_bounds(monkeypatch):
    asked = []
    real = Sampler.shard_rows

    def counting(self, steps, shards, **how):
        asked.append(steps)
        return real(self, steps, shards, **how)

    monkeypatch.setattr(Sampler, "shard_rows", counting)
    sampler = make_sampler(80_000, 800, 4)
    ahead = PrefetchedRows(sampler)
    for step in range(200):
        ahead.of(step, range(4))
    assert [len(steps) for steps in asked] == [81, 19, 81, 19]
    assert sampling.PREFETCHED_ROWS // 800 == 81


def test_prefetched_rows_end_with_the_run(monkeypatch):
    asked = []
    real = Sampler.shard_rows
    monkeypatch.setattr(
        Sampler,
        "shard_rows",
        lambda self, steps, shards, **how: asked.append(steps) or real(self, steps, shards, **how),
    )
    ahead = PrefetchedRows(make_sampler(100, 100, 1), end=10)
    for step in range(10):
        ahead.of(step, range(1))
    assert asked == [range(10)]


def test_the_order_has_not_changed_between_versions():
    """A run must be resumable with a later version: these are results, and not to change."""
    assert permutation(0, 0, 10).tolist() == [5, 7, 8, 6, 4, 9, 2, 0, 1, 3]
    assert permutation(1, SPLIT_STREAM, 10).tolist() == [5, 1, 6, 2, 9, 8, 3, 0, 7, 4]
    assert keyed_draws(0, 0, 10, np.arange(10)).tolist() == [7, 2, 3, 8, 1, 8, 1, 1, 1, 6]


@given(
    rows=st.integers(1, 300),
    batch=st.integers(1, 90),
    shards=st.integers(1, 4),
    seed=st.integers(0, 2**63 - 1),
    start=st.integers(0, 30),
    replacement=st.booleans(),
)
def test_rows_computed_for_many_epochs_at_once_are_those_of_each_step(rows, batch, shards, seed, start, replacement):
    shards = min(shards, batch)
    sampler = Sampler(rows=rows, batch_size=batch, num_shards=shards, seed=seed, replacement=replacement)
    prefetched, own = PrefetchedRows(sampler), range(shards // 2, shards)
    for step in range(start, start + 3 * sampler.steps_per_epoch + 1):
        expected = sampler.shard_rows(range(step, step + 1), own)
        for found, one in zip(prefetched.of(step, own), expected, strict=True):
            assert found.tolist() == one.tolist()
