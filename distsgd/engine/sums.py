"""What the partial sums of a step add up to: the gradients in the order of the tree, loss, weight and examples."""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter
from typing import NamedTuple

from distsgd.core import reduction
from distsgd.core.reduction import PartialSum, Summation
from distsgd.engine.aggregation import Additions, Gradients

_node, _loss_and_weight, _examples = attrgetter("node"), attrgetter("loss", "weight"), attrgetter("examples")


def _add_pairs(left: tuple[float, float], right: tuple[float, float], _buffer: int) -> tuple[float, float]:
    return left[0] + right[0], left[1] + right[1]


class StepSums(NamedTuple):
    """The sums over a mini-batch."""

    gradients: Gradients
    """Those of the subtrees that were received, from left to right."""
    plan: Additions
    """How the gradients are added."""
    total: float
    """The sum of the examples' losses, without L2."""
    weight: float
    """The sum of the examples' weights."""
    loss: float
    """The mean loss, without L2."""
    examples: int

    @classmethod
    def of(cls, step: int, partials: Iterable[PartialSum], summation: Summation) -> StepSums:
        """Return the sums of step `step`, counted from 0. Raise ValueError unless each shard is there exactly once."""
        # Sorted, so that `additions` caches one plan per division of the shards, not one per order of arrival.
        partials = sorted(partials, key=_node)
        nodes = tuple(map(_node, partials))
        try:
            plan = summation.additions(nodes, (0, summation.num_shards))
        except ValueError as error:
            raise ValueError(
                f"step {step + 1}: received gradients for {nodes} of {summation.num_shards} shards: {error}"
            ) from None
        total, weight = reduction.combine(map(_loss_and_weight, partials), plan, _add_pairs)
        examples = sum(map(_examples, partials))
        return cls([partial.gradient for partial in partials], plan, total, weight, total / weight, examples)
