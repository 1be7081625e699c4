"""A worker alone: its sums over any range of shards, prefetched or not, combine to the bits of the serial loop."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_training import some_spec, worker_of

from distsgd.core import numerics, reduction
from distsgd.core.reduction import Node, PartialSum
from distsgd.engine import worker
from distsgd.engine.serial import SerialLoop
from distsgd.engine.spec import RunSpec
from distsgd.engine.validation import Validation


@pytest.fixture(autouse=True, scope="module")
def _one_blas_thread():
    with numerics.pinned_blas(1, None):
        yield


SHAPES = [
    {"features": 6, "model__hidden": 5, "rows": 96},
    {"features": 130, "model__hidden": 33, "rows": 150, "dtype": "u1"},
    {"features": 3, "model__hidden": 1, "rows": 20, "classes": 2},
]

setups = st.builds(
    lambda shape, num_shards, batch, sampling: some_spec(
        **shape, train__num_shards=min(num_shards, batch), train__batch_size=batch, train__sampling=sampling
    ),
    st.sampled_from(SHAPES),
    st.integers(1, 9),
    st.sampled_from([3, 19, 32, 64, 1000]),
    st.sampled_from(["shuffle", "replacement"]),
)


def parameters(spec: RunSpec, step: int) -> np.ndarray:
    rng = np.random.default_rng(step)
    return (spec.start.parameters + 0.1 * rng.standard_normal(spec.net.size)).astype("f4")


def serial(spec: RunSpec, step: int, flat: np.ndarray, node: Node) -> PartialSum:
    """Return the sums over a subtree as the serial loop computes them."""
    sampler, loop = spec.plan.sampler, SerialLoop(spec)
    rows = sampler.shard_rows(range(step, step + 1), range(sampler.num_shards))
    return reduction.sum_over(node, [loop.shard_gradient(flat, shard, rows[shard]) for shard in range(*node)])


def same(a: PartialSum, b: PartialSum) -> bool:
    return a._replace(gradient=a.gradient.tobytes()) == b._replace(gradient=b.gradient.tobytes())


@settings(max_examples=60)
@given(spec=setups, data=st.data())
def test_any_range_of_shards_of_any_step_has_the_serial_bits(spec, data):
    """Regardless of what the worker computed before: other ranges, other steps, unused prefetched rows."""
    sampler, computing = spec.plan.sampler, worker_of(spec)
    for _ in range(3):
        step = data.draw(st.integers(0, 3 * sampler.steps_per_epoch), label="step")
        lo = data.draw(st.integers(0, sampler.num_shards - 1), label="lo")
        shards = range(lo, data.draw(st.integers(lo + 1, sampler.num_shards), label="hi"))
        if data.draw(st.booleans(), label="prefetch"):
            computing.prefetch(step + data.draw(st.sampled_from([0, 0, 1]), label="ahead"), shards, update_here=True)
        flat, out = parameters(spec, step), None
        if data.draw(st.booleans(), label="into"):
            out = np.full((reduction.max_subtrees(sampler.num_shards), spec.net.size), np.nan, "f4")
        found = computing.compute(step, flat, shards, out)
        assert [partial.node for partial in found] == reduction.maximal_subtrees(shards, sampler.num_shards)
        assert all(same(partial, serial(spec, step, flat, partial.node)) for partial in found)
        if out is not None:
            assert all(np.shares_memory(p.gradient, row) for p, row in zip(found, out, strict=False))


@settings(max_examples=40)
@given(spec=setups, data=st.data())
def test_workers_that_share_a_step_combine_to_the_serial_sum(spec, data):
    num_shards = spec.plan.sampler.num_shards
    count = data.draw(st.integers(1, num_shards))
    flat = parameters(spec, 1)
    partials = [
        partial
        for shards in reduction.assign(count, num_shards)
        for partial in worker_of(spec).compute(1, flat, shards)
    ]
    total = reduction.sum_over((0, num_shards), partials)
    assert same(total, serial(spec, 1, flat, (0, num_shards)))
    assert total.examples == total.weight == spec.plan.sampler.batch_count(1)


@pytest.mark.parametrize(("shape", "limit", "prefetches"), [(0, 2**26, False), (1, 2**26, True), (1, 100, False)])
def test_prefetched_rows_are_used_and_change_nothing(shape, limit, prefetches, monkeypatch):
    """The first net is updated before its rows would be gathered, and another exceeds the limit: no prefetching."""
    spec = some_spec(**SHAPES[shape], train__num_shards=4)
    computing, shards = worker_of(spec), range(1, 4)
    monkeypatch.setattr(worker, "PREFETCH_BYTES", limit)
    gathered = []
    gather = computing._batch.gather
    monkeypatch.setattr(
        computing._batch, "gather", lambda index, buffer=0: gathered.append(len(index)) or gather(index, buffer)
    )
    for step in range(5):
        before = len(gathered)
        found = computing.compute(step, parameters(spec, step), shards)
        expected = worker_of(spec).compute(step, parameters(spec, step), shards)
        assert all(same(a, b) for a, b in zip(found, expected, strict=True))
        computed = len(gathered)
        computing.prefetch(step + 1, shards, update_here=True)
        assert computed - before == (0 if prefetches and step else 3)
        assert len(gathered) - computed == (3 if prefetches else 0)


@pytest.mark.parametrize("update_here", [True, False])
def test_rows_are_always_gathered_ahead_where_no_server_needs_the_cores(update_here):
    spec = some_spec(**SHAPES[0], train__num_shards=4)
    computing, shards = worker_of(spec), range(1, 4)
    computing.compute(0, parameters(spec, 0), shards)
    computing.prefetch(1, shards, update_here=update_here)
    assert (computing._prefetched == (1, shards)) is not update_here


@pytest.mark.parametrize("shards", [range(0), range(3, 3), range(3, 2), range(-1, 2), range(4, 6), range(2**62)])
def test_an_invalid_range_of_shards_is_refused(shards):
    spec = some_spec(train__num_shards=5)
    with pytest.raises(ValueError, match=r"is not a contiguous range of the 5 shards"):
        worker_of(spec).compute(0, parameters(spec, 0), shards)


def test_many_steps_use_the_memory_of_one(monkeypatch):
    """Parameters received through Ray calls are a new array in each step; none of them is kept."""
    spec = some_spec(features=1000, model__hidden=100)
    computing, size = worker_of(spec), 4 * spec.net.size

    def work(steps: range) -> None:
        for step in steps:
            computing.compute(step, parameters(spec, step), range(5))

    work(range(2))
    tracemalloc.start()
    try:
        work(range(2, 30))
        assert tracemalloc.get_traced_memory()[0] < 5 * size
    finally:
        tracemalloc.stop()


def test_a_worker_evaluates_held_out_rows_if_there_are_any():
    spec = some_spec()
    train = spec.data.train
    without, with_rows = (replace(spec, data=replace(spec.data, val=val)) for val in (None, train))
    flat = spec.start.parameters
    assert worker_of(without).evaluate(flat, range(1)) == []
    (block,) = worker_of(with_rows).evaluate(flat, range(1))
    assert block == Validation(spec.net, train, spec.data.transform, "cpu").evaluate(flat, range(1))[0]
