"""A worker whose sums are exact: it computes its share of a mini-batch in one product, whatever the shards are.

A plain class that runs without Ray, with the interface of engine.worker.Worker.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np

from distsgd.core.backend import Device, array_module
from distsgd.core.net import Array, Net, Parameters
from distsgd.core.portable.backprop import loss_and_gradient_sums
from distsgd.core.portable.step import Grids
from distsgd.core.portable.workspace import PortableWorkspace
from distsgd.core.reduction import ExactSummation, PartialSum
from distsgd.core.sampling import IntArray, PrefetchedRows, Sampler
from distsgd.data import BatchTransform, Rows
from distsgd.data.bounds import RunBounds
from distsgd.data.gatherer import Examples, exact_gatherer
from distsgd.engine.portable_validation import PortableValidation
from distsgd.engine.splits import Splits
from distsgd.engine.validation import NO_EXTRAS, BlockResult, Extras
from distsgd.engine.worker import PREFETCH_BYTES

PIECE_BYTES = 2**25
"""Maximum size of the features that are multiplied at a time, in float64; sums of several pieces are as exact."""


def piece_rows(net: Net, count: int) -> int:
    """Return how many of `count` examples are computed at a time."""
    return max(1, min(count, PIECE_BYTES // (8 * max(net.features, 3 * net.hidden, 3 * net.classes))))


class PortableWorker:
    """Computes any shares of mini-batches. It owns only buffers; the rows are shared by all workers of a node."""

    def __init__(
        self,
        *,
        net: Net,
        sampler: Sampler,
        train: Rows,
        val: Rows | None,
        transform: BatchTransform,
        device: Device,
        bounds: RunBounds,
        end: int | None = None,
    ) -> None:
        """`bounds` are those of all rows of the run; see engine.worker.Worker."""
        self.net, self.sampler, self.device = net, sampler, device
        self.summation = ExactSummation(sampler.num_shards)
        self._xp = array_module(device)
        count = min(sampler.batch_size, sampler.rows)
        self._grids = Grids(net, bounds.train, count, self._xp)
        self._piece = piece_rows(net, count)
        self._batch, _ = exact_gatherer(train, transform, self._piece, device)
        self._workspace = PortableWorkspace(net, self._piece, self._xp)
        self._validation = None
        if val is not None:
            assert bounds.val is not None
            self._validation = PortableValidation(net, val, transform, device, bounds.val)
        self._rows = PrefetchedRows(sampler, end, joined=True)
        self._splits = Splits(net)
        self._split = self._splits.of
        self._scratch: list[Array] = []
        self._prefetched: tuple[int, range] | None = None
        self._gathered: list[Examples] = []
        self.busy_s = 0.0
        """Seconds for which gradients have been computed."""

    @np.errstate(all="ignore")  # the server checks every result
    def compute(
        self, step: int, flat: np.ndarray, shards: range, out: Sequence[np.ndarray] | None = None
    ) -> list[PartialSum]:
        """Return the exact gradient sums of a contiguous range of shards, as one partial sum.

        The parameters are `flat` (P,) float32. The gradients are written to an array (P,) float64 on the host: the
        first one of `out` if given, else a new one.
        """
        if not 0 <= shards.start < shards.stop <= self.sampler.num_shards:
            raise ValueError(
                f"{shards} is not a contiguous range of the {self.sampler.num_shards} shards of a mini-batch"
            )
        began = time.perf_counter()
        if out is None:
            out = [np.empty(self.net.size)]
            self._splits.clear()  # drop the last step's arrays, which are not used again
        on_host = self._xp is np
        parameters = self._split(flat) if on_host else self.net.split(self._xp.asarray(flat))
        total: Array = out[0] if on_host else self._buffer(0)
        partial = self._sum(step, parameters, shards, total)
        if not on_host:
            total.get(out=out[0])
            partial = partial._replace(gradient=out[0])
        self.busy_s += time.perf_counter() - began
        return [partial]

    def _sum(self, step: int, parameters: Parameters, shards: range, total: Array) -> PartialSum:
        grids, workspace, loss, weight, count = self._grids.of(parameters), self._workspace, 0.0, 0.0, 0
        for number, examples in enumerate(self._pieces(step, shards)):
            gradient = self._buffer(1) if number else total
            loss += loss_and_gradient_sums(
                parameters, *examples, grids=grids, out=self._split(gradient), workspace=workspace
            )
            if number:
                self._xp.add(total, gradient, out=total)
            weight += self._grids.weight(examples.weights, len(examples.X))
            count += len(examples.X)
        return PartialSum((shards.start, shards.stop), total, loss, count, weight)

    def _buffer(self, number: int) -> Array:
        """Return a vector (P,) float64 on the device; most workers need none."""
        while len(self._scratch) <= number:
            self._scratch.append(self._xp.empty(self.net.size, self._xp.float64))
        return self._scratch[number]

    def _pieces(self, step: int, shards: range) -> Iterator[Examples]:
        """Yield the examples of a share of a mini-batch."""
        if self._prefetched == (step, shards):
            yield from self._gathered
            return
        self._prefetched = None
        rows = self._rows.of(step, shards)[0]
        for start in range(0, max(1, len(rows)), self._piece):
            yield self._batch.gather(self._part(rows, start))

    def _part(self, rows: IntArray, start: int) -> IntArray:
        return rows if len(rows) <= self._piece else rows[start : start + self._piece]

    def prefetch(self, step: int, shards: range, *, update_here: bool) -> None:
        """Gather the rows that are likely to be requested next; see Worker.prefetch."""
        rows = self._rows.of(step, shards)[0]
        size = self._batch.buffer_bytes * len(rows) // self._piece
        if len(rows) <= self._piece and size <= PREFETCH_BYTES and (size <= 4 * self.net.size or not update_here):
            self._gathered = [self._batch.gather(rows)]
            self._prefetched = (step, shards)

    def evaluate(self, flat: np.ndarray, blocks: range, extras: Extras = NO_EXTRAS) -> list[BlockResult]:
        """See Validation.evaluate."""
        return [] if self._validation is None else self._validation.evaluate(flat, blocks, extras)
