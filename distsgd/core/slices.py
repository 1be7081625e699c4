"""Slices: how the parameters and the shards of a mini-batch are divided among the nodes of a run.

Each node sums the gradients of its own shards, and owns a slice of the parameters: it receives that part of all other
nodes' sums, adds them along the canonical tree, updates its slice, and sends it to the others. A node that has one
subtree of shards sends and receives 8P(N−1)/N bytes in a step, for P parameters on N nodes.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from distsgd.core import reduction
from distsgd.core.reduction import SUMMATIONS, Node, Summation

GRAIN = 16
"""Slices begin at multiples of so many parameters: no two of them share a line of the cache."""

MAX_CHOICES = 20_000
"""Above this, about a quarter of a second, divisions of the shards are not compared; see `deal`."""


class SlicesBrokenError(Exception):
    """A step could not be completed together; nobody has used its update, but perhaps the node that is told of it."""

    def __init__(self, member: int, problem: str, *, overdue: bool = False, failed: bool = False) -> None:
        super().__init__(problem)
        self.member = member
        """The member whose connection or computation is the problem."""
        self.overdue = overdue
        """Whether it did not answer in time; its process may be hanging."""
        self.failed = failed
        """Whether its computation raised an error, as it would elsewhere."""


@dataclass(frozen=True)
class View:
    """Who computes which shards and owns which slice, until a worker or a node joins or leaves."""

    number: int
    """Counts the views of a run, from 1."""
    num_shards: int
    shards: tuple[range, ...]
    """The contiguous shards of each member; empty for one without workers. Member 0 is the parameter server's node."""
    slices: tuple[slice, ...]
    """The part of the flat parameters (P,) that each member owns; some may be empty."""
    arithmetic: str = "fast"
    """How gradients are added, a key of `reduction.SUMMATIONS`."""

    @functools.cached_property
    def summation(self) -> Summation:
        """How gradients are added."""
        return SUMMATIONS[self.arithmetic](self.num_shards)

    @functools.cached_property
    def roots(self) -> tuple[tuple[Node, ...], ...]:
        """The subtrees whose sums each member sends."""
        return tuple(tuple(self.summation.nodes(run)) for run in self.shards)

    @classmethod
    def of(
        cls,
        number: int,
        weights: Sequence[int],
        *,
        num_shards: int,
        parameters: int,
        grain: int = GRAIN,
        arithmetic: str = "fast",
    ) -> View:
        """Return a view for members that have so many workers each."""
        shards = deal(weights, num_shards) if arithmetic == "fast" else in_proportion(weights, num_shards)
        return cls(number, num_shards, tuple(shards), tuple(cut(parameters, len(weights), grain)), arithmetic)


def cut(parameters: int, members: int, grain: int = GRAIN) -> list[slice]:
    """Return equal slices of `parameters`, one for each member, that begin at multiples of `grain`."""
    grains = -(-parameters // grain)
    ends = [min(parameters, grains * member // members * grain) for member in range(members + 1)]
    return [slice(start, stop) for start, stop in itertools.pairwise(ends)]


def deal(weights: Sequence[int], num_shards: int) -> list[range]:
    """Return a contiguous run of shards for each member, in proportion to its number of workers.

    No worker has more than one shard more than another. Who has one more is chosen so that the members hold as few
    subtrees as possible: each further one costs its member another vector to send. Above MAX_CHOICES, the runs are
    those of `in_proportion`.
    """
    workers = sum(weights)
    least, more = divmod(num_shards, workers)
    if len(weights) * (more + 1) * max(weights) > MAX_CHOICES:
        return in_proportion(weights, num_shards)
    # The best division of what has been dealt so far, by the number of workers that have got one more.
    best: dict[int, tuple[int, list[range]]] = {0: (0, [])}
    for weight in weights:
        longer: dict[int, tuple[int, list[range]]] = {}
        for used, (count, runs_so_far) in best.items():
            start = runs_so_far[-1].stop if runs_so_far else 0
            for extra in range(min(weight, more - used) + 1):
                run = range(start, start + weight * least + extra)
                total = count + len(reduction.maximal_subtrees(run, num_shards))
                if used + extra not in longer or total < longer[used + extra][0]:
                    longer[used + extra] = (total, [*runs_so_far, run])
        best = longer
    return best[more][1]


def in_proportion(weights: Sequence[int], num_shards: int) -> list[range]:
    """Return a contiguous run of shards for each member: those that `reduction.assign` gives its workers."""
    runs = iter(reduction.assign(sum(weights), num_shards))
    of_members = [list(itertools.islice(runs, weight)) for weight in weights]
    return [range(own[0].start, own[-1].stop) if own else range(0) for own in of_members]
