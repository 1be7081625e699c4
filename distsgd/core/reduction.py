"""The canonical tree in which shard gradients are added, and who holds which part of it.

Floating-point addition is not associative, so the order is fixed by the shard index alone: `sum(lo, hi)` is the leaf
if `hi - lo == 1`, else `sum(lo, mid) + sum(mid, hi)`, where `mid - lo` is the largest power of two below `hi - lo`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

Node = tuple[int, int]
"""A subtree, named by its shards: the first and one past the last."""

T = TypeVar("T")


def middle(lo: int, hi: int) -> int:
    """Return where the canonical tree splits the shards [lo, hi), of which there are at least two."""
    return lo + (1 << ((hi - lo - 1).bit_length() - 1))


def tree_sum(node: Node, known: Callable[[Node, int], T | None], add: Callable[[T, T, int], T], depth: int = 0) -> T:
    """Return the sum over `node`: what `known` returns for it, or else the sum of its two halves.

    Both functions also get the number of the buffer that they may write their result to: a left half has its
    parent's, a right half the next one, so `buffers(num_shards)` of them are enough for any node.
    `known` must know every leaf that is reached, else KeyError.
    """
    value = known(node, depth)
    if value is not None:
        return value
    lo, hi = node
    if hi - lo == 1:
        raise KeyError(f"shard {lo} is missing")
    mid = middle(lo, hi)
    left = tree_sum((lo, mid), known, add, depth)
    return add(left, tree_sum((mid, hi), known, add, depth + 1), depth)


def buffers(num_shards: int) -> int:
    """Return how many buffers a `tree_sum` over any node of the tree needs."""
    return (num_shards - 1).bit_length() + 1


def maximal_subtrees(shards: range, num_shards: int) -> list[Node]:
    """Return the largest subtrees of the tree over `num_shards` that lie whole within `shards`, from left to right."""

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


class Addition(NamedTuple):
    """One of the additions of parts; operands are numbers, of parts and, from their count on, of earlier additions."""

    left: int
    right: int
    buffer: int
    """Where the sum may be written to; see `tree_sum`."""


@functools.lru_cache(maxsize=1024)
def additions(parts: tuple[Node, ...], root: Node) -> tuple[Addition, ...]:
    """Return how `parts` are added to the sum over `root`, which is the last one; none if there is but one part.

    Raises ValueError unless the parts are subtrees that cover each shard of `root` exactly once.
    """
    numbers, done = {part: number for number, part in enumerate(parts)}, []

    def known(node: Node, _: int) -> int | None:
        return numbers.get(node)

    def add(left: int, right: int, buffer: int) -> int:
        done.append(Addition(left, right, buffer))
        return len(parts) + len(done) - 1

    try:
        tree_sum(root, known, add)
    except KeyError as error:
        raise ValueError(error.args[0]) from None
    if len(done) != len(parts) - 1:
        raise ValueError(f"not all of {parts} are part of the sum over {root}")
    return tuple(done)


def sum_of_losses(losses: Sequence[float], plan: Sequence[Addition]) -> float:
    """Return the sum of the parts' losses, added as `plan` says."""
    sums = list(losses)
    for left, right, _ in plan:
        sums.append(sums[left] + sums[right])
    return sums[-1]


def assign(workers: int, num_shards: int) -> list[range]:
    """Return a contiguous run of shards for each worker; sizes differ by one at most."""
    return [range(num_shards * w // workers, num_shards * (w + 1) // workers) for w in range(workers)]


class PartialSum(NamedTuple):
    """What a worker sends of one subtree: sums over the examples of its shards."""

    node: Node
    gradient: Any  # (P,) float32, flat
    loss: float  # added in float64 along the same tree
    examples: int

    def combined(self, right: PartialSum, gradient: Any) -> PartialSum:
        """Return the partial of this subtree and the next one, whose gradients' sum is `gradient`."""
        node = (self.node[0], right.node[1])
        return PartialSum(node, gradient, self.loss + right.loss, self.examples + right.examples)
