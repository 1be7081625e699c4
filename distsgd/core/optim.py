"""Shared by all update rules: the blocks that parameters are updated in, L2, and clipping by the gradient's norm.

The gradient of a mini-batch is formed once, from the sum over its shards, with N the sum of its examples' weights:

    g = (Σ_i ∂L_i/∂W) / N + 2λW        (biases: without 2λW)

With `clip_norm` c, g is multiplied by min(1, c / ‖g‖), ‖g‖ over all parameters (Pascanu et al., "On the difficulty of
training recurrent neural networks", 2013). Everything is elementwise except that norm, whose blocks are fixed, so any
number of threads, and any division of the blocks between processes, gives the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import ModuleType
from typing import NamedTuple

from distsgd.config import OptimConfig
from distsgd.core.net import Array, Net

BLOCK = 131072
"""Numbers in a block, 512 KB an array: with smaller ones the calls, and two threads' turns at the interpreter, cost
more than the second-level cache saves (3.2 million parameters: 3.2 ms in blocks of 64 KB, 2.3 in these, 1.4 on two
threads)."""


class Block(NamedTuple):
    """Consecutive parameters that are updated together."""

    part: slice
    """Their slice of the flat vector."""

    biases: tuple[slice, ...]
    """The slices within the block that L2 does not apply to."""


def blocks(net: Net, part: slice | None = None) -> Iterator[Block]:
    """Yield the blocks that the flat parameter vector is updated in, or those parts of them that are within `part`."""
    biases = (net.bounds.b1, net.bounds.b2)
    first, last = (0, net.size) if part is None else (part.start, part.stop)
    for begin in range(first // BLOCK * BLOCK, last, BLOCK):
        start, stop = max(begin, first), min(begin + BLOCK, last)
        inside = [(max(bias.start, start) - start, min(bias.stop, stop) - start) for bias in biases]
        yield Block(slice(start, stop), tuple(slice(lo, hi) for lo, hi in inside if lo < hi))


def add_decay(
    total: Array, weights: Array, factor: float, *, biases: tuple[slice, ...], scratch: Array, xp: ModuleType
) -> None:
    """Add `factor`·weights to `total`, except for the biases; `scratch`, of the same length, is overwritten.

    The weights are not multiplied by 1 − 2αλ instead: float32 would round a small αλ badly, or to nothing.
    """
    xp.multiply(weights, xp.float32(factor), out=scratch)
    for bias in biases:
        scratch[bias].fill(0)  # 0.25 µs; an assignment takes 0.65
    total += scratch


def squared_norm(
    total: Array,
    total_weight: float,
    weights: Array,
    *,
    biases: tuple[slice, ...],
    l2: float,
    scratch: Array,
    xp: ModuleType,
) -> float:
    """Return ‖total / total_weight + 2·l2·weights‖² of one block, biases without the second term.

    `total` is overwritten.
    """
    total /= xp.float32(total_weight)
    add_decay(total, weights, 2 * l2, biases=biases, scratch=scratch, xp=xp)
    square = float(xp.dot(total, total))
    return square if math.isfinite(square) else float(xp.square(total, dtype=xp.float64).sum())


def clip_factor(config: OptimConfig, squares: list[float]) -> float:
    """Return the factor that clips the gradient, from the squared norms of all blocks, in any order."""
    norm = math.sqrt(math.fsum(squares))
    return 1.0 if config.clip_norm is None or norm <= config.clip_norm else config.clip_norm / norm


def l2_loss(net: Net, flat: Array, l2: float, xp: ModuleType) -> float:
    """Return λ(ΣW1² + ΣW2²) of the flat parameters, each block's sum in float32 and their total in float64."""
    if not l2:
        return 0.0
    return l2 * math.fsum(float(xp.dot(part, part)) for part in weight_blocks(net, flat))


def weight_blocks(net: Net, flat: Array) -> Iterator[Array]:
    """Yield the weights that L2 applies to, W1 and W2, in blocks of at most BLOCK."""
    for part in (net.bounds.W1, net.bounds.W2):
        for start in range(part.start, part.stop, BLOCK):
            yield flat[start : min(start + BLOCK, part.stop)]
