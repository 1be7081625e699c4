"""The server's arithmetic: add subtrees in the canonical order and apply the update, block by block.

Blocks are fixed and all of it is elementwise, so the bits are the same for any number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from distsgd.config import OptimConfig
from distsgd.core import optim, reduction
from distsgd.core.net import Net
from distsgd.core.reduction import Node

THREADED = 8 * optim.BLOCK
"""Parameters from which on the work is split over threads: for fewer, waking one takes as long as it saves."""

T = TypeVar("T")

Gradients = Mapping[Node, np.ndarray]
"""Of each subtree that is held, from left to right, the sum (P,) float32."""

BlockTotal = tuple[optim.Block, np.ndarray, np.ndarray]
"""A block, the gradients' sum over it in a buffer that may be overwritten, and another buffer."""


class Aggregation:
    """Buffers and threads for updates of one net."""

    def __init__(self, net: Net, num_shards: int, *, threads: int = 1) -> None:
        self._root = (0, num_shards)
        # From the last to the first: what workers wrote last, and will read first, is then still in a cache.
        blocks = list(optim.blocks(net))[::-1]
        count = threads if net.size >= THREADED else 1
        buffers = np.empty((count, reduction.buffers(num_shards) + 1, min(optim.BLOCK, net.size)), np.float32)
        self._shares = [
            [(block, list(own[:, : block.part.stop - block.part.start])) for block in blocks[number::count]]
            for number, own in enumerate(buffers)
        ]
        self._pool = ThreadPoolExecutor(count - 1, "aggregation", _ignore_overflow) if count > 1 else None

    @np.errstate(all="ignore")  # what overflows is found by looking at the results
    def update(
        self,
        gradients: Gradients,
        total_weight: float,
        weights: np.ndarray,
        velocity: np.ndarray | None,
        *,
        lr: float,
        config: OptimConfig,
        out: np.ndarray,
        velocity_out: np.ndarray | None,
    ) -> bool:
        """Apply the sum of `gradients` to `weights` (P,); return whether `out` (P,) is finite.

        It is divided by `total_weight`, which the weights of its examples add up to.
        """
        if config.clip_norm is not None:

            def norms(thread: int) -> list[float]:
                return [
                    optim.squared_norm(total, total_weight, weights[part], biases=biases, l2=config.l2, scratch=scratch)
                    for (part, biases), total, scratch in self._totals(thread, gradients)
                ]

            lr *= optim.clip_factor(config, [square for squares in self._each_thread(norms) for square in squares])

        def updated(thread: int) -> bool:
            finite = True
            for (part, biases), total, scratch in self._totals(thread, gradients):
                new = out[part]
                optim.update(
                    total,
                    total_weight,
                    weights[part],
                    None if velocity is None else velocity[part],
                    lr=lr,
                    biases=biases,
                    config=config,
                    out=new,
                    velocity_out=None if velocity_out is None else velocity_out[part],
                    scratch=scratch,
                )
                finite = finite and _is_finite(new)
            return finite

        return all(self._each_thread(updated))

    def _totals(self, thread: int, gradients: Gradients) -> Iterator[BlockTotal]:
        """Yield each of a thread's blocks, one after the other in the same buffers."""
        plan, held = reduction.additions(tuple(gradients), self._root), list(gradients.values())
        for block, buffers in self._shares[thread]:
            yield block, _block_sum(held, plan, block.part, buffers), buffers[-1]

    def _each_thread(self, work: Callable[[int], T]) -> list[T]:
        """Return what `work` returns for each thread's number, in order; this thread is number 0."""
        if self._pool is None:
            return [work(0)]
        others = [self._pool.submit(work, number) for number in range(1, len(self._shares))]
        return [work(0), *(other.result() for other in others)]


def _ignore_overflow() -> None:
    np.seterr(all="ignore")


def _block_sum(
    gradients: list[np.ndarray], plan: tuple[int, ...], part: slice, buffers: list[np.ndarray]
) -> np.ndarray:
    """Return one block of the gradients' sum over all shards, in one of the block's buffers."""
    if len(gradients) == 1:
        np.copyto(buffers[0], gradients[0][part])  # one worker's sum over all shards, which is not to be overwritten
        return buffers[0]

    def add(left: np.ndarray, right: np.ndarray, buffer: int) -> np.ndarray:
        total: np.ndarray = np.add(left, right, out=buffers[buffer])
        return total

    return reduction.combine([gradient[part] for gradient in gradients], plan, add)


def _is_finite(values: np.ndarray) -> bool:
    """Return whether all values are finite; the square of a huge one may overflow, so that a second look is needed."""
    return math.isfinite(np.dot(values, values)) or bool(np.isfinite(values).all())
