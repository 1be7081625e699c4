"""The canonical tree against its definition, and one sum for every division of the shards among workers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distsgd.config import OptimConfig
from distsgd.core.net import Net
from distsgd.core.optim import blocks
from distsgd.core.reduction import (
    additions,
    assign,
    buffers,
    max_subtrees,
    maximal_subtrees,
    middle,
    sum_of_losses,
    tree_sum,
)
from distsgd.core.update_rules import Step
from distsgd.engine.aggregation import Aggregation

SHARDS = st.integers(1, 70)


def definition(lo: int, hi: int):
    """Return the tree as nested pairs, word by word as DESIGN has it."""
    if hi - lo == 1:
        return lo
    power = 1
    while power * 2 < hi - lo:
        power *= 2
    return definition(lo, lo + power), definition(lo + power, hi)


def nodes(lo: int, hi: int) -> set[tuple[int, int]]:
    if hi - lo == 1:
        return {(lo, hi)}
    mid = middle(lo, hi)
    return {(lo, hi)} | nodes(lo, mid) | nodes(mid, hi)


def leaf_only(leaf):
    return lambda node, buffer: leaf(node[0]) if node[1] - node[0] == 1 else None


def leaves(num_shards: int, width: int = 3) -> np.ndarray:
    """Return numbers whose sum depends on the order of addition: of very different sizes, and of both signs."""
    rng = np.random.default_rng(num_shards)
    signs = rng.choice([-1, 1], (num_shards, width))
    return (signs * 10.0 ** rng.uniform(-4, 4, (num_shards, width))).astype(np.float32)


@pytest.mark.parametrize("num_shards", range(1, 40))
def test_tree_sum_adds_in_the_order_of_the_definition(num_shards):
    found = tree_sum((0, num_shards), leaf_only(lambda shard: shard), lambda left, right, _: (left, right))
    assert found == definition(0, num_shards)


def test_the_tree_of_seven_shards():
    found = tree_sum((0, 7), leaf_only(str), lambda left, right, _: f"({left}+{right})")
    assert found == "(((0+1)+(2+3))+((4+5)+6))"


def test_the_order_matters_for_the_numbers_used_here():
    values = leaves(16)
    tree = tree_sum((0, 16), leaf_only(lambda s: values[s]), lambda a, b, _: a + b)
    in_line = np.add.accumulate(values)[-1]
    assert not np.array_equal(tree, in_line)


def test_a_missing_shard_is_named():
    with pytest.raises(KeyError, match="shard 2 is missing"):
        tree_sum((0, 4), leaf_only(lambda s: None if s == 2 else s), lambda a, b, _: a + b)


@given(SHARDS)
def test_buffers_are_enough_and_never_hold_two_values_at_once(num_shards):
    held: dict[int, object] = {}

    def known(node, buffer):
        if node[1] - node[0] > 1:
            return None
        assert buffer not in held or held[buffer] is None
        held[buffer] = node
        return node, buffer

    def add(left, right, buffer):
        assert left[1] == buffer != right[1]
        assert held[left[1]] == left[0]
        assert held[right[1]] == right[0]
        held[right[1]] = None
        held[buffer] = (left[0][0], right[0][1])
        return held[buffer], buffer

    assert tree_sum((0, num_shards), known, add) == ((0, num_shards), 0)
    assert max(held) < buffers(num_shards)


@pytest.mark.parametrize("num_shards", [1, 2, 3, 4, 5, 7, 8, 12, 16, 31])
def test_roots_of_every_run_of_shards_are_the_largest_whole_subtrees(num_shards):
    tree = nodes(0, num_shards)
    for start in range(num_shards + 1):
        for stop in range(start, num_shards + 1):
            found = maximal_subtrees(range(start, stop), num_shards)
            covered = [shard for lo, hi in found for shard in range(lo, hi)]
            assert covered == list(range(start, stop))
            assert set(found) <= tree
            inside = {node for node in tree if start <= node[0] and node[1] <= stop}
            for lo, hi in found:
                larger = {node for node in inside if node[0] <= lo and hi <= node[1]}
                assert larger == {(lo, hi)}
            assert len(found) <= max_subtrees(num_shards)


@given(num_shards=SHARDS, data=st.data())
def test_assign_gives_every_shard_to_one_worker_in_equal_runs(num_shards, data):
    workers = data.draw(st.integers(1, num_shards))
    runs = assign(workers, num_shards)
    assert len(runs) == workers
    assert [shard for run in runs for shard in run] == list(range(num_shards))
    assert max(map(len, runs)) - min(map(len, runs)) <= 1
    assert min(map(len, runs)) >= 1


def test_assign_gives_nothing_to_workers_that_are_too_many():
    assert [list(run) for run in assign(3, 2)] == [[], [0], [1]]


@given(num_shards=SHARDS, cuts=st.lists(st.integers(0, 70), max_size=6), order=st.randoms(use_true_random=False))
def test_the_sum_over_partials_has_the_bits_of_the_sum_over_leaves(num_shards, cuts, order):
    """For any cut of the shards into contiguous runs, equal or not, whose partials come in any order."""
    values = leaves(num_shards)

    def add(left, right, _):
        return left + right

    whole = tree_sum((0, num_shards), leaf_only(lambda s: values[s]), add)
    edges = sorted({0, num_shards, *(min(cut, num_shards) for cut in cuts)})
    held = {
        root: tree_sum(root, leaf_only(lambda s: values[s]), add)
        for lo, hi in itertools.pairwise(edges)
        for root in maximal_subtrees(range(lo, hi), num_shards)
    }
    parts = list(held)
    order.shuffle(parts)
    found = [held[part] for part in parts]
    for left, right, _ in additions(tuple(parts), (0, num_shards)):
        found.append(found[left] + found[right])
    assert found[-1].tobytes() == whole.tobytes()


@pytest.mark.parametrize("num_shards", [1, 2, 5, 8, 13])
def test_the_server_adds_the_partials_of_any_number_of_workers_to_the_same_bits(num_shards):
    net = Net(4, 3, 2)
    values = leaves(num_shards, net.size)
    expected = tree_sum((0, num_shards), leaf_only(lambda s: values[s]), lambda a, b, _: a + b)
    for workers in range(1, num_shards + 1):
        gradients = {
            root: tree_sum(root, leaf_only(lambda s: values[s]), lambda a, b, _: a + b)
            for run in assign(workers, num_shards)
            for root in maximal_subtrees(run, num_shards)
        }
        copies = {node: gradient.copy() for node, gradient in gradients.items()}
        out = np.empty(net.size, np.float32)
        Aggregation(OptimConfig(l2=0), list(blocks(net)), num_shards, xp=np).update(
            gradients, np.zeros(net.size, np.float32), {}, step=Step(1, 1.0, 1.0), out=out, slots_out={}
        )
        assert out.tobytes() == (-expected).tobytes()
        assert all(np.array_equal(copies[node], gradient) for node, gradient in gradients.items())


@given(SHARDS, st.integers(1, 5))
def test_losses_are_added_along_the_same_tree(num_shards, workers):
    losses = np.exp(np.random.default_rng(num_shards).normal(0, 20, num_shards)).tolist()
    expected = tree_sum((0, num_shards), leaf_only(lambda s: losses[s]), lambda a, b, _: a + b)
    held = {
        root: tree_sum(root, leaf_only(lambda s: losses[s]), lambda a, b, _: a + b)
        for run in assign(min(workers, num_shards), num_shards)
        for root in maximal_subtrees(run, num_shards)
    }
    assert sum_of_losses(list(held.values()), additions(tuple(held), (0, num_shards))) == expected


@pytest.mark.parametrize(
    ("held", "complete"),
    [
        ([(0, 4)], True),
        ([(0, 2), (2, 4)], True),
        ([(2, 4), (1, 2), (0, 1)], True),
        ([], False),
        ([(0, 2)], False),
        ([(2, 4)], False),
        ([(0, 1), (2, 4)], False),
        ([(0, 2), (1, 2), (2, 4)], False),
        ([(0, 4), (3, 4)], False),
        ([(0, 4), (4, 5)], False),
        ([(0, 2), (0, 2), (2, 4)], False),
        ([(0, 3), (3, 4)], False),
    ],
)
def test_parts_have_to_cover_every_shard_exactly_once(held, complete):
    if complete:
        assert len(additions(tuple(held), (0, 4))) == len(held) - 1
        return
    with pytest.raises(ValueError, match=r"shard \d is missing|not all of .* are part of the sum over \(0, 4\)"):
        additions(tuple(held), (0, 4))
