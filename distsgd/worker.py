"""A worker: the gradient sums of its shards, and the validation of its blocks of held-out rows.

A plain class that runs without Ray; trainer.py makes an actor of it.
"""

from __future__ import annotations

import numpy as np

from distsgd import reduction
from distsgd.backend import Device, array_module
from distsgd.batch import Batch
from distsgd.data import BatchTransform, Rows
from distsgd.model import Net, Parameters, Workspace, loss_and_gradient_sums
from distsgd.reduction import Node, Partial
from distsgd.sampling import IntArray, RowsAhead, Sampler
from distsgd.validation import Validation


class Worker:
    """Computes for whatever shards it is told; of its own it has but buffers, rows are shared by the node."""

    def __init__(
        self,
        *,
        net: Net,
        sampler: Sampler,
        train: Rows,
        val: Rows | None,
        transform: BatchTransform,
        device: Device,
    ) -> None:
        self.net, self.sampler, self.device = net, sampler, device
        self._xp = array_module(device)
        self._batch = Batch(train, transform, sampler.max_shard_count, device)
        self._validation = None if val is None else Validation(net, val, transform, device)
        self._workspace = Workspace(net, sampler.max_shard_count, self._xp)
        self._buffers = self._xp.empty((reduction.buffers(sampler.num_shards), net.size), self._xp.float32)
        self._rows = RowsAhead(sampler)

    def compute(self, step: int, flat: np.ndarray, shards: range, out: np.ndarray | None = None) -> list[Partial]:
        """Return the gradient sums of a run of shards: one partial for each subtree that lies whole within it.

        flat (P,) float32 are the parameters. The gradients are written to the rows of `out` (subtrees, P) float32 on
        the host, which is made if it is not given.
        """
        roots = reduction.roots(shards, self.sampler.num_shards)
        if out is None:
            out = np.empty((len(roots), self.net.size), np.float32)
        parameters, rows = self._upload(flat), self._rows.of(step, shards)
        with np.errstate(all="ignore"):  # the server looks at every result
            return [self._subtree(root, parameters, rows, shards.start, out[i]) for i, root in enumerate(roots)]

    def _subtree(
        self, root: Node, parameters: Parameters, rows: list[IntArray], first: int, out: np.ndarray
    ) -> Partial:
        """Return the partial of one subtree, its gradient in `out`; `rows` are those of the shards from `first`."""
        on_host = self._xp is np
        buffers = [out if on_host else self._buffers[0], *self._buffers[1:]]

        def leaf(node: Node, buffer: int) -> Partial | None:
            if node[1] - node[0] > 1:
                return None
            index, gradient = rows[node[0] - first], buffers[buffer]
            X, y = self._batch.gather(index)
            loss = loss_and_gradient_sums(parameters, X, y, out=self.net.split(gradient), workspace=self._workspace)
            return Partial(node, gradient, loss, len(index))

        def add(left: Partial, right: Partial, _: int) -> Partial:
            gradient = left.gradient
            gradient += right.gradient
            return Partial(
                (left.node[0], right.node[1]), gradient, left.loss + right.loss, left.examples + right.examples
            )

        partial = reduction.tree_sum(root, leaf, add)
        if not on_host:
            partial.gradient.get(out=out)
        return partial._replace(gradient=out)

    def evaluate(self, flat: np.ndarray, blocks: range) -> list[tuple[float, int]]:
        """See Validation.evaluate."""
        return [] if self._validation is None else self._validation.evaluate(flat, blocks)

    def _upload(self, flat: np.ndarray) -> Parameters:
        return self.net.split(self._xp.asarray(flat))
