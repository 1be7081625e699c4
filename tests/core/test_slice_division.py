"""How parameters and shards are divided among nodes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distsgd.core import optim, reduction
from distsgd.core.net import Net
from distsgd.core.slices import GRAIN, MAX_CHOICES, View, cut, deal

WEIGHTS = st.lists(st.integers(0, 5), min_size=1, max_size=9).filter(any)


@given(parameters=st.integers(1, 10**7), members=st.integers(1, 64), grain=st.sampled_from([1, GRAIN, optim.BLOCK]))
def test_slices_cover_all_parameters_in_nearly_equal_parts(parameters, members, grain):
    slices = cut(parameters, members, grain)
    assert [part.start for part in slices] == [0, *(part.stop for part in slices[:-1])]
    assert slices[-1].stop == parameters
    assert all(part.start % grain == 0 or part.start == parameters for part in slices)
    assert max(part.stop - part.start for part in slices) <= parameters / members + grain


@given(weights=WEIGHTS, more=st.integers(0, 40))
def test_shards_are_dealt_in_proportion_to_workers(weights, more):
    num_shards = sum(weights) + more
    runs = deal(weights, num_shards)
    assert list(itertools.chain(*runs)) == list(range(num_shards))
    least = num_shards // sum(weights)
    for run, weight in zip(runs, weights, strict=True):
        assert weight * least <= len(run) <= weight * (least + 1)


@given(weights=st.lists(st.integers(1, 2), min_size=2, max_size=5), more=st.integers(0, 6))
def test_members_hold_as_few_subtrees_as_any_fair_division_allows(weights, more):
    num_shards = sum(weights) + more
    least, extra = divmod(num_shards, sum(weights))

    def subtrees(sizes: list[int]) -> int:
        ends = [0, *itertools.accumulate(sizes)]
        return sum(len(reduction.maximal_subtrees(range(a, b), num_shards)) for a, b in itertools.pairwise(ends))

    extras = itertools.product(*(range(weight + 1) for weight in weights))
    fewest = min(
        subtrees([w * least + e for w, e in zip(weights, extra_of, strict=True)])
        for extra_of in extras
        if sum(extra_of) == extra
    )
    assert subtrees([len(run) for run in deal(weights, num_shards)]) == fewest


@pytest.mark.parametrize(("nodes", "num_shards"), [(2, 2), (2, 8), (4, 8), (8, 8), (8, 12), (4, 16)])
def test_equal_nodes_hold_one_subtree_each_where_the_numbers_allow_it(nodes, num_shards):
    view = View.of(1, [1] * nodes, num_shards=num_shards, parameters=100)
    assert [len(roots) for roots in view.roots] == [1] * nodes


def test_many_nodes_are_dealt_shards_at_once():
    weights = [8] * 200
    assert len(weights) * 9 * 8 > MAX_CHOICES / 10
    runs = deal(weights, 2500)
    assert list(itertools.chain(*runs)) == list(range(2500))
    assert {len(run) for run in runs} <= {12, 13}


def biases_of(blocks: Iterable[optim.Block]) -> set[int]:
    """Return the positions of all biases in the flat vector."""
    return {
        block.part.start + index for block in blocks for bias in block.biases for index in range(bias.start, bias.stop)
    }


@given(parameters=st.integers(1, 5), hidden=st.integers(1, 300), members=st.integers(1, 8))
def test_blocks_of_slices_are_those_of_the_whole_with_the_same_biases(parameters, hidden, members):
    net = Net(parameters * 300, hidden, 3)
    assert biases_of(optim.blocks(net)) == biases_of(
        block for part in cut(net.size, members) for block in optim.blocks(net, part)
    )
    whole = [part for part in cut(net.size, members, optim.BLOCK) if part.start < part.stop]
    assert [b.part for part in whole for b in optim.blocks(net, part)] == [b.part for b in optim.blocks(net)]
