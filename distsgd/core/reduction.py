"""The canonical tree in which shard gradients are added, and the division of its shards among workers.

Floating-point addition is not associative, so the order is fixed by the shard index alone: `sum(lo, hi)` is the leaf
if `hi - lo == 1`, else `sum(lo, mid) + sum(mid, hi)`, where `mid - lo` is the largest power of two below `hi - lo`.

Adding along the tree takes two steps: `additions` plans the order from the nodes alone, and is cached; `combine`
executes a plan for gradients, losses or weights.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

Node = tuple[int, int]
"""A subtree, named by its shards: the first and one past the last."""

T = TypeVar("T")


def middle(lo: int, hi: int) -> int:
    """Return where the canonical tree splits the shards [lo, hi), of which there are at least two."""
    return lo + (1 << ((hi - lo - 1).bit_length() - 1))


@functools.lru_cache(maxsize=1024)
def additions(parts: tuple[Node, ...], root: Node) -> tuple[int, ...]:
    """Return, for each of `parts`, how many additions follow it; each adds the two newest sums that are left.

    That is the sum over `root` in postfix notation: parts (0, 1), (1, 2), (2, 4) of (0, 4) give 0, 1, 1.
    Raise ValueError unless the parts are subtrees, from left to right, that cover each shard of `root` exactly once.
    """
    counts = [0] * len(parts)
    position = 0

    def visit(lo: int, hi: int) -> None:
        nonlocal position
        if position < len(parts) and parts[position] == (lo, hi):
            position += 1
            return
        if hi - lo == 1:
            raise ValueError(f"shard {lo} is missing")
        mid = middle(lo, hi)
        visit(lo, mid)
        visit(mid, hi)
        counts[position - 1] += 1

    visit(*root)
    if position != len(parts):
        raise ValueError(f"{parts[position]} is not part of the sum over {root}, or came twice, or too late")
    return tuple(counts)


def combine(parts: Iterable[T], plan: Sequence[int], add: Callable[[T, T, int], T]) -> T:
    """Return the sum of `parts`, which come from left to right, added as `plan` says; see `additions`.

    Parts are consumed lazily. `add` also gets the number of the buffer that it may write its result
    to. That is the position of its left operand among the sums that are left: a part itself may be written to the
    buffer that `part_buffers` names, and `buffers(num_shards)` of them are enough.
    """
    sums: list[T] = []
    for part, count in zip(parts, plan, strict=True):
        while count:
            part = add(sums.pop(), part, len(sums))
            count -= 1
        sums.append(part)
    return sums[0]


def part_buffers(plan: Sequence[int]) -> list[int]:
    """Return for each part the number of the buffer that is free for it; see `combine`."""
    numbers, position = [], 0
    for count in plan:
        numbers.append(position)
        position += 1 - count
    return numbers


def buffers(num_shards: int) -> int:
    """Return how many buffers a `combine` over any node of the tree needs."""
    return (num_shards - 1).bit_length() + 1


def maximal_subtrees(shards: range, num_shards: int) -> list[Node]:
    """Return the largest subtrees of the tree over `num_shards` within `shards`, from left to right."""

    def visit(lo: int, hi: int) -> list[Node]:
        if shards.start <= lo and hi <= shards.stop:
            return [(lo, hi)]
        if hi <= shards.start or shards.stop <= lo:
            return []
        mid = middle(lo, hi)
        return visit(lo, mid) + visit(mid, hi)

    return visit(0, num_shards) if shards else []


def max_subtrees(num_shards: int) -> int:
    """Return a bound on the number of subtrees of any contiguous run of shards: two at each level of the tree."""
    return max(1, 2 * (num_shards - 1).bit_length())


def split(node: Node, size: int) -> list[Node]:
    """Return the subtrees of at most `size` shards that `node` is the sum of, from left to right."""
    lo, hi = node
    if hi - lo <= size:
        return [node]
    mid = middle(lo, hi)
    return split((lo, mid), size) + split((mid, hi), size)


def assign(workers: int, num_shards: int) -> list[range]:
    """Return a contiguous run of shards for each worker; sizes differ by one at most."""
    return [range(num_shards * w // workers, num_shards * (w + 1) // workers) for w in range(workers)]


class PartialSum(NamedTuple):
    """The sums over the examples of one subtree's shards."""

    node: Node
    gradient: Any  # (P,) flat, of `Summation.dtype`
    loss: float  # added in float64 along the same tree
    examples: int
    weight: float  # the sum of the examples' weights, added like the loss; the server divides by it

    def combined(self, right: PartialSum, gradient: Any) -> PartialSum:
        """Return the partial sum of this subtree and the next one, with the sum of their gradients in `gradient`."""
        return PartialSum(
            (self.node[0], right.node[1]),
            gradient,
            self.loss + right.loss,
            self.examples + right.examples,
            self.weight + right.weight,
        )


def added(left: PartialSum, right: PartialSum, _buffer: int = 0) -> PartialSum:
    """Return the partial sum of two neighbours, with their gradients' sum in a new array: an `add` for `combine`."""
    return left.combined(right, left.gradient + right.gradient)


def sum_over(
    root: Node,
    partials: Iterable[PartialSum],
    add: Callable[[PartialSum, PartialSum, int], PartialSum] = added,
    *,
    plan: Callable[[tuple[Node, ...], Node], Sequence[int]] = additions,
) -> PartialSum:
    """Return the sum over a subtree by `add` (see `combine`); partials may be in any order and include other subtrees.

    `plan` is `Summation.additions`. Raise ValueError unless those within `root` cover each of its shards exactly once.
    """
    inside = sorted([p for p in partials if root[0] <= p.node[0] and p.node[1] <= root[1]], key=lambda p: p.node)
    return combine(inside, plan(tuple([p.node for p in inside]), root), add)


class Summation(Protocol):
    """How the gradients of a mini-batch's shards are added up, and which of them a worker may add by itself."""

    arithmetic: str
    """Its key in `SUMMATIONS`."""
    dtype: np.dtype[Any]
    """The type of the sums of gradients."""
    num_shards: int

    @property
    def max_nodes(self) -> int:
        """A bound on the number of sums that a worker sends for any contiguous run of shards."""
        ...

    @property
    def buffers(self) -> int:
        """How many buffers a `combine` over all shards needs."""
        ...

    def nodes(self, shards: range) -> list[Node]:
        """Return what a worker with a contiguous run of shards sends the sums over, from left to right."""
        ...

    def additions(self, parts: tuple[Node, ...], root: Node) -> tuple[int, ...]:
        """See `additions`; the parts are any nodes that `nodes` may return."""
        ...


class CanonicalSummation:
    """Rounded sums: the order of addition is that of the canonical tree, whoever computes which shards."""

    arithmetic, dtype = "fast", np.dtype(np.float32)

    def __init__(self, num_shards: int) -> None:
        self.num_shards = num_shards

    @property
    def max_nodes(self) -> int:
        """See Summation.max_nodes."""
        return max_subtrees(self.num_shards)

    @property
    def buffers(self) -> int:
        """See Summation.buffers."""
        return buffers(self.num_shards)

    def nodes(self, shards: range) -> list[Node]:
        """See Summation.nodes."""
        return maximal_subtrees(shards, self.num_shards)

    def additions(self, parts: tuple[Node, ...], root: Node) -> tuple[int, ...]:
        """See Summation.additions."""
        return additions(parts, root)


class ExactSummation:
    """Exact sums, which do not depend on the order of addition: one for any run of shards, added from left to right."""

    arithmetic, dtype = "portable", np.dtype(np.float64)
    max_nodes = 1
    buffers = 2

    def __init__(self, num_shards: int) -> None:
        self.num_shards = num_shards

    def nodes(self, shards: range) -> list[Node]:
        """See Summation.nodes."""
        return [(shards.start, shards.stop)] if shards else []

    def additions(self, parts: tuple[Node, ...], root: Node) -> tuple[int, ...]:
        """See Summation.additions."""
        return exact_additions(parts, root)


@functools.lru_cache(maxsize=1024)
def exact_additions(parts: tuple[Node, ...], root: Node) -> tuple[int, ...]:
    """Return a plan, as `additions` does, for parts that are any contiguous runs of shards, from left to right."""
    end = root[0]
    for lo, hi in parts:
        if lo > end:
            raise ValueError(f"shard {end} is missing")
        if lo < end or not lo < hi <= root[1]:
            raise ValueError(f"{(lo, hi)} is not part of the sum over {root}, or came twice, or too late")
        end = hi
    if end != root[1]:
        raise ValueError(f"shard {end} is missing")
    return (0, *[1] * (len(parts) - 1))


SUMMATIONS: dict[str, Callable[[int], Summation]] = {"fast": CanonicalSummation, "portable": ExactSummation}
"""How gradients are added with each `train.arithmetic`, for a number of shards."""
