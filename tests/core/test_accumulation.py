"""Products added in place: the numbers are right, and it is only used where it gives the bits of separate additions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distsgd.core import accumulation
from distsgd.core.accumulation import Accumulator, exact_accumulator
from distsgd.core.backprop import loss_and_gradient_sums
from distsgd.core.net import Net
from distsgd.core.sampling import Sampler
from distsgd.core.workspace import Workspace

SIZES = st.integers(1, 40)


def accumulator() -> Accumulator:
    try:
        return Accumulator()
    except OSError as error:
        pytest.skip(f"NumPy's BLAS has no known name for sgemm here: {error}")


@given(k=SIZES, m=SIZES, n=SIZES, fortran=st.booleans(), seed=st.integers(0, 99))
def test_a_product_is_added_to_what_is_there(k, m, n, fortran, seed):
    rng = np.random.default_rng(seed)
    A, C = (rng.normal(size=shape).astype(np.float32) for shape in ((k, m), (m, n)))
    B = rng.normal(size=(n, k)).astype(np.float32).T if fortran else rng.normal(size=(k, n)).astype(np.float32)
    expected = C + A.astype(np.float64).T @ B
    accumulator().add_product(A, B, C)
    np.testing.assert_allclose(C, expected, atol=1e-4)


@pytest.mark.parametrize("count", [1, 2, 9])
def test_no_size_of_a_shard_makes_blas_complain(capfd, count):
    """BLAS writes to stderr, and does nothing, if an argument is invalid."""
    accumulator()
    exact_accumulator(Net(5, 4, 3), [count])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("count", [1, 2, 5, 16])
def test_gradients_are_added_to_what_is_there_with_the_bits_of_separate_additions(count):
    net = Net(64, 32, 10)
    found = exact_accumulator(net, [count])
    if found is None:
        pytest.skip("this BLAS sums differently, which is seen, and leaves are added one by one")
    rng = np.random.default_rng(count)
    flat = net.initial(0)
    X, y = rng.normal(size=(count, 64)).astype(np.float32), rng.integers(10, size=count)
    before = rng.normal(size=net.size).astype(np.float32)
    alone, added, workspace = np.empty_like(flat), before.copy(), Workspace(net, 16, np)
    first = loss_and_gradient_sums(net.split(flat), X, y, out=net.split(alone), workspace=workspace)
    second = loss_and_gradient_sums(
        net.split(flat), X, y, out=net.split(added), workspace=workspace, add_product=found.add_product
    )
    assert first == second
    assert added.tobytes() == (before + alone).tobytes()


@pytest.mark.parametrize(
    "net", [Net(3, 1, 2), Net(1, 5, 2), Net(2, 2, 2), Net(1, 1, 2)], ids=lambda net: f"{net.features}-{net.hidden}"
)
@pytest.mark.parametrize("count", [2, 3])
def test_a_tiny_nets_few_numbers_are_tried_often_enough(net, count):
    """One draw of three numbers may agree by chance where one in thirty does not."""
    found = exact_accumulator(net, [count])
    rng = np.random.default_rng(count)
    for _ in range(2000 if found else 0):
        A, B = rng.normal(size=(count, net.features)).astype("f4"), rng.normal(size=(count, net.hidden)).astype("f4")
        C = rng.normal(size=(net.features, net.hidden)).astype("f4")
        expected = C + A.T @ B
        found.add_product(A, B, C)
        assert C.tobytes() == expected.tobytes()


def test_a_shard_without_examples_adds_nothing():
    net = Net(4, 3, 2)
    before = np.arange(net.size, dtype=np.float32)
    added = before.copy()
    loss = loss_and_gradient_sums(
        net.split(net.initial(0)),
        np.empty((0, 4), np.float32),
        np.empty(0, np.int64),
        out=net.split(added),
        workspace=Workspace(net, 2, np),
        add_product=accumulator().add_product,
    )
    assert loss == 0
    assert np.array_equal(added, before)


def test_a_blas_with_other_bits_is_not_used(monkeypatch):
    real = Accumulator.add_product

    def with_one_bit_more(self, A, B, C):
        real(self, A, B, C)
        C[-1, -1] = np.nextafter(C[-1, -1], np.float32(np.inf))

    accumulator()
    monkeypatch.setattr(Accumulator, "add_product", with_one_bit_more)
    assert exact_accumulator(Net(64, 32, 10), [16]) is None


def test_an_unknown_blas_is_not_used(monkeypatch):
    monkeypatch.setattr(accumulation, "SYMBOLS", {"no_such_function": None})
    assert exact_accumulator(Net(64, 32, 10), [16]) is None


@given(rows=st.integers(1, 300), num_shards=st.integers(1, 9), more=st.integers(0, 60))
def test_every_size_of_a_shard_is_among_those_that_are_tried(rows, num_shards, more):
    sampler = Sampler(rows=rows, batch_size=num_shards + more, num_shards=num_shards, seed=0)
    shards = sampler.shard_rows(range(sampler.steps_per_epoch), range(num_shards))
    assert {len(shard) for shard in shards} - {0} == sampler.shard_counts
