"""A worker: computes the gradient sums of shards, and evaluates blocks of held-out rows.

A plain class that runs without Ray; cluster/gradient_actors.py wraps it in an actor.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from distsgd.core import reduction
from distsgd.core.accumulation import exact_accumulator
from distsgd.core.backend import Device, array_module
from distsgd.core.backprop import AddProduct, loss_and_gradient_sums
from distsgd.core.net import Array, Net, Parameters
from distsgd.core.packing import touch_buffers
from distsgd.core.reduction import CanonicalSummation, Node, PartialSum
from distsgd.core.sampling import PrefetchedRows, Sampler
from distsgd.core.workspace import Workspace
from distsgd.data import BatchTransform, Rows
from distsgd.data.gatherer import Examples, Gatherer
from distsgd.engine.splits import Splits
from distsgd.engine.validation import NO_EXTRAS, BlockResult, Extras, Validation

PREFETCH_BYTES = 2**26
"""Maximum size of the mini-batch buffers, in bytes, for prefetching the next step's rows."""


class Subtree(NamedTuple):
    """How a worker computes the sum over a subtree of its shards."""

    parts: list[Node]
    """Each is one shard, or two that are accumulated in one buffer."""

    buffers: list[int]
    """The index of the worker's buffer for each part."""

    plan: tuple[int, ...]
    """See reduction.additions."""

    @classmethod
    def of(cls, root: Node, size: int) -> Subtree:
        """Return the plan for the subtree `root`, in parts of at most `size` shards."""
        parts = reduction.split(root, size)
        plan = reduction.additions(tuple(parts), root)
        return cls(parts, reduction.part_buffers(plan), plan)


def _add_in_place(left: PartialSum, right: PartialSum, _buffer: int) -> PartialSum:
    gradient = left.gradient
    gradient += right.gradient
    return left.combined(right, gradient)


class Worker:
    """Computes any shards that it is asked for. It owns only buffers; the rows are shared by all workers of a node."""

    def __init__(
        self,
        *,
        net: Net,
        sampler: Sampler,
        train: Rows,
        val: Rows | None,
        transform: BatchTransform,
        device: Device,
        end: int | None = None,
    ) -> None:
        """`end` is the last step of the run, if it is known: the order of rows is not computed beyond it."""
        self.net, self.sampler, self.device = net, sampler, device
        self.summation = CanonicalSummation(sampler.num_shards)
        self._xp = array_module(device)
        self._batch = Gatherer(train, transform, sampler.max_shard_count, device)
        self._validation = None if val is None else Validation(net, val, transform, device)
        self._workspace = Workspace(net, sampler.max_shard_count, self._xp)
        self._buffers = list(self._xp.empty((reduction.buffers(sampler.num_shards), net.size), self._xp.float32))
        self._splits = Splits(net)
        self._split = self._splits.of
        self._shards: range | None = None
        self._subtrees: list[Subtree] = []
        self._rows = PrefetchedRows(sampler, end)
        alone = device != "cpu" or sampler.num_shards == 1
        accumulator = None if alone else exact_accumulator(net, sampler.shard_counts)
        self._add_product: AddProduct | None = None if accumulator is None else accumulator.add_product
        self._leaves_per_part = 1 if accumulator is None else 2  # two shards accumulated in one buffer
        self._prefetched: tuple[int, range] | None = None
        self._gathered: list[Examples] = []
        if device == "cpu":
            touch_buffers()
        self.busy_s = 0.0
        """Seconds for which gradients have been computed."""

    @np.errstate(all="ignore")  # the server checks every result
    def compute(
        self, step: int, flat: np.ndarray, shards: range, out: Sequence[np.ndarray] | None = None
    ) -> list[PartialSum]:
        """Return the gradient sums of a contiguous range of shards: one partial sum for each maximal subtree within it.

        The parameters are `flat` (P,) float32. The gradients are written to arrays (P,) float32 on the host: those in
        `out` if given, else new ones.
        """
        if shards != self._shards:
            if not 0 <= shards.start < shards.stop <= self.sampler.num_shards:
                raise ValueError(
                    f"{shards} is not a contiguous range of the {self.sampler.num_shards} shards of a mini-batch"
                )
            roots = reduction.maximal_subtrees(shards, self.sampler.num_shards)
            self._shards, self._subtrees = shards, [Subtree.of(root, self._leaves_per_part) for root in roots]
        if out is None:
            out = [np.empty(self.net.size, np.float32) for _ in self._subtrees]
            self._splits.clear()  # drop the last step's arrays, which are not used again
        began = time.perf_counter()
        parameters = self._split(flat) if self._xp is np else self.net.split(self._xp.asarray(flat))
        partials = [
            self._sum(subtree, step, parameters, shards, row) for subtree, row in zip(self._subtrees, out, strict=False)
        ]
        self.busy_s += time.perf_counter() - began
        return partials

    def prefetch(self, step: int, shards: range, *, update_here: bool) -> None:
        """Gather the mini-batch rows of the shards that are likely to be requested next.

        Skip this if the buffers would be too large, or if a server that makes the whole update on this node would
        finish first: its work takes about as long per parameter as gathering takes per feature, and prefetching would
        keep the cores that the server needs busy.
        """
        size = len(shards) * self._batch.buffer_bytes
        if size <= PREFETCH_BYTES and (size <= 4 * self.net.size or not update_here):
            rows = self._rows.of(step, shards)
            self._gathered = [self._batch.gather(index, buffer) for buffer, index in enumerate(rows)]
            self._prefetched = (step, shards)

    def _examples(self, step: int, shards: range, shard: int) -> Examples:
        """Return the examples of one of `shards`."""
        number = shard - shards.start
        if self._prefetched == (step, shards):
            return self._gathered[number]
        self._prefetched = None
        return self._batch.gather(self._rows.of(step, shards)[number])

    def _sum(self, subtree: Subtree, step: int, parameters: Parameters, shards: range, out: np.ndarray) -> PartialSum:
        """Return the partial sum of one subtree of `shards`, with its gradient in `out`."""
        on_host = self._xp is np
        buffers = [out if on_host else self._buffers[0], *self._buffers[1:]]

        def leaf(shard: int, gradient: Array, add_product: AddProduct | None) -> PartialSum:
            examples = self._examples(step, shards, shard)
            out, workspace = self._split(gradient), self._workspace
            loss = loss_and_gradient_sums(parameters, *examples, out=out, workspace=workspace, add_product=add_product)
            return PartialSum((shard, shard + 1), gradient, loss, len(examples.X), examples.weight)

        def part(node: Node, buffer: int) -> PartialSum:
            lo, hi = node
            left = leaf(lo, buffers[buffer], None)
            if hi - lo == 1:
                return left
            return left.combined(leaf(lo + 1, left.gradient, self._add_product), left.gradient)

        partial = reduction.combine(map(part, subtree.parts, subtree.buffers), subtree.plan, _add_in_place)
        if on_host:
            return partial
        partial.gradient.get(out=out)
        return partial._replace(gradient=out)

    def evaluate(self, flat: np.ndarray, blocks: range, extras: Extras = NO_EXTRAS) -> list[BlockResult]:
        """See Validation.evaluate."""
        return [] if self._validation is None else self._validation.evaluate(flat, blocks, extras)
