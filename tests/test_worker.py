"""A worker by itself: its sums of any run of shards, prepared or not, combine to the bits of the serial loop."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_training import some_setup, worker_of

from distsgd import numerics, reduction, worker
from distsgd.reduction import Node, Partial
from distsgd.serial import SerialLoop
from distsgd.setup import Setup


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
    lambda shape, num_shards, batch, sampling: some_setup(
        **shape, train__num_shards=min(num_shards, batch), train__batch_size=batch, train__sampling=sampling
    ),
    st.sampled_from(SHAPES),
    st.integers(1, 9),
    st.sampled_from([3, 19, 32, 64, 1000]),
    st.sampled_from(["shuffle", "replacement"]),
)


def parameters(setup: Setup, step: int) -> np.ndarray:
    rng = np.random.default_rng(step)
    return (setup.start.parameters + 0.1 * rng.standard_normal(setup.net.size)).astype("f4")


def added(a: Partial, b: Partial, _: int) -> Partial:
    return Partial((a.node[0], b.node[1]), a.gradient + b.gradient, a.loss + b.loss, a.examples + b.examples)


def serial(setup: Setup, step: int, flat: np.ndarray, node: Node) -> Partial:
    """Return the sums of a subtree as the serial loop adds them up."""
    sampler, loop = setup.plan.sampler, SerialLoop(setup)
    rows = sampler.shard_rows(range(step, step + 1), range(sampler.num_shards))

    def leaf(node: Node, _: int) -> Partial | None:
        return loop.shard_gradient(flat, node[0], rows[node[0]]) if node[1] - node[0] == 1 else None

    return reduction.tree_sum(node, leaf, added)


def same(a: Partial, b: Partial) -> bool:
    return (a.node, a.loss, a.examples) == (b.node, b.loss, b.examples) and a.gradient.tobytes() == b.gradient.tobytes()


@settings(max_examples=60)
@given(setup=setups, data=st.data())
def test_any_run_of_shards_of_any_step_has_the_serial_bits(setup, data):
    """Also with what the worker has done before: other runs, other steps, rows prepared in vain."""
    sampler, computing = setup.plan.sampler, worker_of(setup)
    for _ in range(3):
        step = data.draw(st.integers(0, 3 * sampler.steps_per_epoch), label="step")
        lo = data.draw(st.integers(0, sampler.num_shards - 1), label="lo")
        shards = range(lo, data.draw(st.integers(lo + 1, sampler.num_shards), label="hi"))
        if data.draw(st.booleans(), label="prepare"):
            computing.prepare(step + data.draw(st.sampled_from([0, 0, 1]), label="ahead"), shards)
        flat, out = parameters(setup, step), None
        if data.draw(st.booleans(), label="into"):
            out = np.full((reduction.most_roots(sampler.num_shards), setup.net.size), np.nan, "f4")
        found = computing.compute(step, flat, shards, out)
        assert [partial.node for partial in found] == reduction.roots(shards, sampler.num_shards)
        assert all(same(partial, serial(setup, step, flat, partial.node)) for partial in found)
        if out is not None:
            assert all(np.shares_memory(p.gradient, row) for p, row in zip(found, out, strict=False))


@settings(max_examples=40)
@given(setup=setups, data=st.data())
def test_workers_that_share_a_step_combine_to_the_serial_sum(setup, data):
    num_shards = setup.plan.sampler.num_shards
    count = data.draw(st.integers(1, num_shards))
    flat = parameters(setup, 1)
    held = {
        partial.node: partial
        for shards in reduction.assign(count, num_shards)
        for partial in worker_of(setup).compute(1, flat, shards)
    }
    total = reduction.tree_sum((0, num_shards), lambda node, _: held.get(node), added)
    assert same(total, serial(setup, 1, flat, (0, num_shards)))
    assert total.examples == setup.plan.sampler.batch_count(1)


@pytest.mark.parametrize("shape", SHAPES[:2])
def test_prepared_rows_are_used_and_change_nothing(shape, monkeypatch):
    setup = some_setup(**shape, train__num_shards=4)
    computing, shards = worker_of(setup), range(1, 4)
    monkeypatch.setattr(worker, "AHEAD_BYTES", 2**40)
    gathered = []
    gather = computing._batch.gather
    monkeypatch.setattr(
        computing._batch, "gather", lambda index, buffer=0: gathered.append(len(index)) or gather(index, buffer)
    )
    for step in range(5):
        before = len(gathered)
        found = computing.compute(step, parameters(setup, step), shards)
        expected = worker_of(setup).compute(step, parameters(setup, step), shards)
        assert all(same(a, b) for a, b in zip(found, expected, strict=True))
        computed = len(gathered)
        computing.prepare(step + 1, shards)
        assert (computed - before == 0) == (step > 0 and len(gathered) > computed)


def test_many_steps_use_the_memory_of_one(monkeypatch):
    """Parameters that come by Ray calls are another array in each step; none of them is kept."""
    setup = some_setup(features=1000, model__hidden=100)
    computing, size = worker_of(setup), 4 * setup.net.size

    def work(steps: range) -> None:
        for step in steps:
            computing.compute(step, parameters(setup, step), range(5))

    work(range(2))
    tracemalloc.start()
    try:
        work(range(2, 30))
        assert tracemalloc.get_traced_memory()[0] < 5 * size
    finally:
        tracemalloc.stop()
