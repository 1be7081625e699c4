"""The server's arithmetic with exact sums: gradients are added in any order, and rounded to float32 once."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from distsgd.config import OptimConfig
from distsgd.core.net import Array, Net
from distsgd.core.optim import Block
from distsgd.core.portable.optim import squared_norm
from distsgd.core.portable.rules import update_rule
from distsgd.core.portable.step import Grids
from distsgd.core.portable.update import gradient
from distsgd.core.reduction import Summation
from distsgd.data.bounds import RunBounds
from distsgd.engine.aggregation import Additions, Aggregation, Gradients


class PortableAggregation(Aggregation):
    """Updates blocks of a net from exact sums (P,) float64; see Aggregation."""

    def __init__(
        self,
        config: OptimConfig,
        blocks: Sequence[Block],
        grids: Grids,
        *,
        xp: ModuleType,
        threads: int = 1,
    ) -> None:
        super().__init__(config, blocks, 2, xp=xp, threads=threads)
        self._rule = update_rule(config)
        self._net, self._grids = grids.net, grids
        size = max(block.part.stop - block.part.start for block in blocks)
        self._sums = [xp.empty(size, xp.float64) for _ in self._shares]

    def _block_sum(
        self,
        gradients: Gradients,
        plan: Additions,  # noqa: ARG002 - the order does not matter
        part: slice,
        thread: int,
        buffers: list[Array],
    ) -> Array:
        """Return one block of the sum over the mini-batch, rounded to float32."""
        xp, out = self._xp, buffers[0]
        total = self._sums[thread][: part.stop - part.start]
        if len(gradients) == 1:
            xp.copyto(total, gradients[0][part])
        else:
            xp.add(gradients[0][part], gradients[1][part], out=total)
            for other in gradients[2:]:
                xp.add(total, other[part], out=total)
        gradient(total, part, self._net, self._grids, out, xp)
        return out

    def _squared_norm(self, total: Array, total_weight: float, weights: Array, **block: Any) -> list[float]:
        return squared_norm(total, total_weight, weights, **block)


def aggregation_for(
    net: Net,
    bounds: RunBounds | None,
    config: OptimConfig,
    blocks: Sequence[Block],
    summation: Summation,
    batch_size: int,
    *,
    threads: int = 1,
) -> Aggregation:
    """Return the arithmetic of a server, or of a slice's owner; exact sums need the `bounds` of the rows."""
    if bounds is None:
        return Aggregation(config, blocks, summation.num_shards, xp=np, threads=threads)
    return PortableAggregation(config, blocks, Grids(net, bounds.train, batch_size), xp=np, threads=threads)
