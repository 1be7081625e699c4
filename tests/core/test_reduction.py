"""The canonical tree against its definition, and one sum for every division of the shards among workers."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distsgd.config import OptimConfig
from distsgd.core.net import Net
from distsgd.core.optim import blocks
from distsgd.core.reduction import (
    Node,
    PartialSum,
    additions,
    assign,
    buffers,
    combine,
    max_subtrees,
    maximal_subtrees,
    middle,
    part_buffers,
    split,
    sum_over,
)
from distsgd.core.update_rules import Step
from distsgd.engine.aggregation import Aggregation

SHARDS = st.integers(1, 70)


def definition(lo: int, hi: int, leaf: Callable[[int], Any], add: Callable[[Any, Any], Any]) -> Any:
    """Return the sum over the shards [lo, hi), word by word as DESIGN has it."""
    if hi - lo == 1:
        return leaf(lo)
    power = 1
    while power * 2 < hi - lo:
        power *= 2
    return add(definition(lo, lo + power, leaf, add), definition(lo + power, hi, leaf, add))


def summed(values: np.ndarray, node: Node) -> np.ndarray:
    return definition(*node, lambda shard: values[shard], operator.add)


def nodes(lo: int, hi: int) -> set[Node]:
    if hi - lo == 1:
        return {(lo, hi)}
    mid = middle(lo, hi)
    return {(lo, hi)} | nodes(lo, mid) | nodes(mid, hi)


def leaves(lo: int, hi: int) -> tuple[Node, ...]:
    return tuple((shard, shard + 1) for shard in range(lo, hi))


def numbers(num_shards: int, width: int = 3) -> np.ndarray:
    """Return numbers whose sum depends on the order of addition: of very different sizes, and of both signs."""
    rng = np.random.default_rng(num_shards)
    signs = rng.choice([-1, 1], (num_shards, width))
    return (signs * 10.0 ** rng.uniform(-4, 4, (num_shards, width))).astype(np.float32)


@st.composite
def divisions(draw) -> tuple[int, list[Node]]:
    """Some shards cut into contiguous runs, equal or not, and the subtrees that their holders have whole."""
    num_shards = draw(SHARDS)
    cuts = draw(st.lists(st.integers(0, num_shards), max_size=6))
    edges = sorted({0, num_shards, *cuts})
    runs = itertools.starmap(range, itertools.pairwise(edges))
    return num_shards, [node for run in runs for node in maximal_subtrees(run, num_shards)]


@pytest.mark.parametrize("num_shards", range(1, 40))
def test_leaves_are_added_in_the_order_of_the_definition(num_shards):
    plan = additions(leaves(0, num_shards), (0, num_shards))
    found = combine(range(num_shards), plan, lambda left, right, _: (left, right))
    assert found == definition(0, num_shards, lambda shard: shard, lambda left, right: (left, right))


def test_the_tree_of_seven_shards():
    found = combine("0123456", additions(leaves(0, 7), (0, 7)), lambda left, right, _: f"({left}+{right})")
    assert found == "(((0+1)+(2+3))+((4+5)+6))"
    assert additions(((0, 1), (1, 2), (2, 4)), (0, 4)) == (0, 1, 1)


def test_the_order_matters_for_the_numbers_used_here():
    values = numbers(16)
    assert not np.array_equal(summed(values, (0, 16)), np.add.accumulate(values)[-1])


@given(divisions())
def test_any_division_of_the_shards_has_the_bits_of_the_definition(division):
    num_shards, parts = division
    values = numbers(num_shards)
    plan = additions(tuple(parts), (0, num_shards))
    found = combine([summed(values, part) for part in parts], plan, lambda left, right, _: left + right)
    assert found.tobytes() == summed(values, (0, num_shards)).tobytes()


@given(divisions())
def test_sums_in_buffers_that_are_used_again_have_the_same_bits(division):
    """Each part is written, when its turn comes, to the buffer that is named for it."""
    num_shards, parts = division
    values = numbers(num_shards)
    plan, memory = additions(tuple(parts), (0, num_shards)), np.full((buffers(num_shards), 3), np.nan, np.float32)

    def written():
        for part, buffer in zip(parts, part_buffers(plan), strict=True):
            memory[buffer] = summed(values, part)
            yield memory[buffer]

    found = combine(written(), plan, lambda left, right, buffer: np.add(left, right, out=memory[buffer]))
    assert np.shares_memory(found, memory[0])
    assert found.tobytes() == summed(values, (0, num_shards)).tobytes()


@given(divisions())
def test_a_result_may_be_written_to_a_buffer_while_parts_stay_as_they_are(division):
    """As the server's are, which are the workers' memory."""
    num_shards, parts = division
    values = numbers(num_shards)
    plan, memory = additions(tuple(parts), (0, num_shards)), np.full((buffers(num_shards), 3), np.nan, np.float32)
    held = [summed(values, part) for part in parts]
    before = [part.copy() for part in held]
    found = combine(held, plan, lambda left, right, buffer: np.add(left, right, out=memory[buffer]))
    assert found.tobytes() == summed(values, (0, num_shards)).tobytes()
    assert all(np.array_equal(a, b) for a, b in zip(held, before, strict=True))


@pytest.mark.parametrize("missing", [0, 1])
def test_a_plan_requires_its_number_of_parts(missing):
    plan = additions(leaves(0, 3), (0, 3))
    with pytest.raises(ValueError, match="zip"):
        combine(range(2 + 2 * missing), plan, lambda left, right, _: left + right)


@pytest.mark.parametrize("num_shards", [1, 2, 3, 4, 5, 7, 8, 12, 16, 31])
def test_the_maximal_subtrees_of_every_run_of_shards_are_the_largest_whole_ones(num_shards):
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


@given(SHARDS, st.integers(1, 5), st.data())
def test_a_subtree_is_split_into_subtrees_of_at_most_some_size(num_shards, size, data):
    tree = nodes(0, num_shards)
    root = data.draw(st.sampled_from(sorted(tree)))
    parts = split(root, size)
    assert [shard for lo, hi in parts for shard in range(lo, hi)] == list(range(*root))
    assert set(parts) <= tree
    assert all(hi - lo <= size for lo, hi in parts)
    larger = [node for node in tree if node[1] - node[0] <= size and set(range(*node)) <= set(range(*root))]
    assert all(any(lo <= node[0] and node[1] <= hi for lo, hi in parts) for node in larger), "none could be larger"


@given(num_shards=SHARDS, data=st.data())
def test_assign_gives_every_shard_to_one_worker_in_equal_runs(num_shards, data):
    workers = data.draw(st.integers(1, num_shards))
    runs = assign(workers, num_shards)
    assert len(runs) == workers
    assert [shard for run in runs for shard in run] == list(range(num_shards))
    assert max(map(len, runs)) - min(map(len, runs)) <= 1
    assert min(map(len, runs)) >= 1


def test_assign_gives_surplus_workers_no_shards():
    assert [list(run) for run in assign(3, 2)] == [[], [0], [1]]


@pytest.mark.parametrize("num_shards", [1, 2, 5, 8, 13])
def test_the_server_adds_the_partial_sums_of_any_number_of_workers_to_the_same_bits(num_shards):
    net = Net(4, 3, 2)
    values = numbers(num_shards, net.size)
    expected = summed(values, (0, num_shards))
    for workers in range(1, num_shards + 1):
        gradients = {
            root: summed(values, root)
            for run in assign(workers, num_shards)
            for root in maximal_subtrees(run, num_shards)
        }
        copies = {node: gradient.copy() for node, gradient in gradients.items()}
        out, zeros = np.empty(net.size, np.float32), np.zeros(net.size, np.float32)
        sums, plan = list(gradients.values()), additions(tuple(gradients), (0, num_shards))
        server = Aggregation(OptimConfig(l2=0), list(blocks(net)), num_shards, xp=np)
        server.update(sums, plan, zeros, {}, step=Step(1.0, 1.0, 1.0, 1), out=out, slots_out={})
        assert out.tobytes() == (-expected).tobytes()
        assert all(np.array_equal(copies[node], gradient) for node, gradient in gradients.items())


def partial_of(values: np.ndarray, node: Node) -> PartialSum:
    """Return a subtree's partial sum whose loss and weight, too, depend on the order of addition."""
    wide = values.astype(np.float64)
    examples = sum(shard + 1 for shard in range(*node))
    return PartialSum(
        node,
        summed(values, node),
        float(summed(wide[:, :1], node)[0]) / 3,
        examples,
        definition(*node, lambda shard: 0.1 * (shard + 1), operator.add),
    )


@given(divisions(), st.randoms(use_true_random=False), st.data())
def test_partial_sums_add_up_in_any_order_of_arrival(division, order, data):
    num_shards, parts = division
    values = numbers(num_shards)
    partials = [partial_of(values, part) for part in parts]
    order.shuffle(partials)
    inside = [n for n in sorted(nodes(0, num_shards)) if any(n[0] <= lo and hi <= n[1] for lo, hi in parts)]
    root = data.draw(st.sampled_from(inside))
    found = sum_over(root, partials)
    expected = partial_of(values, root)
    assert (found.node, found.examples, found.weight) == (root, expected.examples, expected.weight)
    assert found.gradient.tobytes() == expected.gradient.tobytes()
    assert found.loss == pytest.approx(expected.loss, rel=1e-9, abs=1e-6)


@given(SHARDS, st.integers(1, 5))
def test_losses_are_added_along_the_same_tree(num_shards, workers):
    losses = np.exp(np.random.default_rng(num_shards).normal(0, 20, num_shards)).tolist()
    expected = definition(0, num_shards, lambda shard: losses[shard], operator.add)
    zero = np.zeros(1, np.float32)
    partials = [
        sum_over(root, [PartialSum((s, s + 1), zero, losses[s], 1, 1.0) for s in range(num_shards)])
        for run in assign(min(workers, num_shards), num_shards)
        for root in maximal_subtrees(run, num_shards)
    ]
    assert sum_over((0, num_shards), partials).loss == expected


@pytest.mark.parametrize(
    ("held", "problem"),
    [
        ([(0, 4)], None),
        ([(0, 2), (2, 4)], None),
        ([(0, 1), (1, 2), (2, 4)], None),
        ([], "shard 0 is missing"),
        ([(0, 2)], "shard 2 is missing"),
        ([(2, 4)], "shard 0 is missing"),
        ([(0, 1), (2, 4)], "shard 1 is missing"),
        ([(2, 4), (0, 2)], "shard 0 is missing"),
        ([(0, 2), (1, 2), (2, 4)], "shard 2 is missing"),
        ([(0, 4), (3, 4)], r"\(3, 4\) is not part of the sum over \(0, 4\)"),
        ([(0, 4), (4, 5)], r"\(4, 5\) is not part of the sum over \(0, 4\)"),
        ([(0, 2), (0, 2), (2, 4)], "shard 2 is missing"),
        ([(0, 3), (3, 4)], "shard 0 is missing"),
    ],
)
def test_parts_have_to_cover_every_shard_exactly_once_from_left_to_right(held, problem):
    if problem is None:
        assert sum(additions(tuple(held), (0, 4))) == len(held) - 1
        return
    with pytest.raises(ValueError, match=problem):
        additions(tuple(held), (0, 4))
