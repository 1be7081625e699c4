"""The server's arithmetic: add subtrees in the canonical order and apply the update, block by block.

Blocks are fixed and all of it is elementwise, so the bits are the same for any number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from distsgd import optim, reduction
from distsgd.config import OptimConfig
from distsgd.model import Net
from distsgd.reduction import Node

THREADED = 8 * optim.BLOCK
"""Parameters from which on the work is split over threads: for fewer, waking one takes as long as it saves."""

T = TypeVar("T")

Gradients = Mapping[Node, np.ndarray]
"""Of each subtree that is held, the sum (P,) float32."""


class Aggregation:
    """Buffers and threads for updates of one net."""

    def __init__(self, net: Net, num_shards: int, *, threads: int = 1) -> None:
        self._root = (0, num_shards)
        blocks = list(optim.blocks(net))
        count = threads if net.size >= THREADED else 1
        self._shares = [blocks[share.start : share.stop] for share in reduction.assign(count, len(blocks))]
        width = min(optim.BLOCK, net.size)
        self._buffers = np.empty((count, reduction.buffers(num_shards) + 1, width), np.float32)
        self._pool = ThreadPoolExecutor(count - 1, "aggregation") if count > 1 else None

    def update(
        self,
        gradients: Gradients,
        count: int,
        weights: np.ndarray,
        velocity: np.ndarray | None,
        *,
        lr: float,
        config: OptimConfig,
        out: np.ndarray,
        velocity_out: np.ndarray | None,
    ) -> bool:
        """Apply the sum of `gradients` over `count` examples to `weights` (P,); return whether `out` (P,) is finite."""
        if config.clip_norm is not None:

            def norms(thread: int) -> list[float]:
                return [
                    optim.squared_norm(total, count, weights[part], biases=biases, l2=config.l2, scratch=scratch)
                    for (part, biases), total, scratch in self._totals(thread, gradients)
                ]

            lr *= optim.clip_factor(config, [square for squares in self._each_thread(norms) for square in squares])

        def updated(thread: int) -> bool:
            finite = True
            for (part, biases), total, scratch in self._totals(thread, gradients):
                optim.update(
                    total,
                    count,
                    weights[part],
                    None if velocity is None else velocity[part],
                    lr=lr,
                    biases=biases,
                    config=config,
                    out=out[part],
                    velocity_out=None if velocity_out is None else velocity_out[part],
                    scratch=scratch,
                )
                finite = finite and _is_finite(out[part])
            return finite

        return all(self._each_thread(updated))

    def _totals(self, thread: int, gradients: Gradients) -> Iterator[tuple[optim.Block, np.ndarray, np.ndarray]]:
        """Yield each of a thread's blocks, the gradients' sum over it in a buffer, and a buffer to spare."""
        sums, scratch = self._buffers[thread, :-1], self._buffers[thread, -1]
        for block in self._shares[thread]:
            total = _block_sum(gradients, self._root, block.part, sums)
            yield block, total, scratch[: len(total)]

    def _each_thread(self, work: Callable[[int], T]) -> list[T]:
        """Return what `work` returns for each thread's number, in order; this thread is number 0."""

        def quietly(number: int) -> T:
            with np.errstate(all="ignore"):  # what overflows is found by looking at the results
                return work(number)

        if self._pool is None:
            return [quietly(0)]
        others = [self._pool.submit(quietly, number) for number in range(1, len(self._shares))]
        return [quietly(0), *(other.result() for other in others)]


def _block_sum(gradients: Gradients, root: Node, part: slice, sums: np.ndarray) -> np.ndarray:
    """Return one block of the gradients' sum over all shards, in one of the buffers `sums`."""
    width = part.stop - part.start

    def known(node: Node, _: int) -> np.ndarray | None:
        gradient = gradients.get(node)
        return None if gradient is None else gradient[part]

    def add(left: np.ndarray, right: np.ndarray, buffer: int) -> np.ndarray:
        added: np.ndarray = np.add(left, right, out=sums[buffer, :width])
        return added

    total: np.ndarray = reduction.tree_sum(root, known, add)
    if root not in gradients:
        return total
    copy: np.ndarray = sums[0, :width]
    np.copyto(copy, total)  # one worker's sum over all shards, which is not to be overwritten
    return copy


def _is_finite(values: np.ndarray) -> bool:
    """Return whether all values are finite; the square of a huge one may overflow, so that a second look is needed."""
    return bool(np.isfinite(np.dot(values, values)) or np.isfinite(values).all())
