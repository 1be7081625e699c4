"""The serial loop with exact sums: the reference of all ways to train with `train.arithmetic=portable`.

See serial.py for the algorithm. Here a mini-batch is one product, and its gradient is rounded to float32 once.
"""

from __future__ import annotations

import numpy as np

from distsgd.core import optim
from distsgd.core.portable.backprop import loss_and_gradient_sums
from distsgd.core.portable.optim import l2_loss, squared_norm
from distsgd.core.portable.rules import update_rule
from distsgd.core.portable.step import Grids
from distsgd.core.portable.update import gradient
from distsgd.core.portable.workspace import PortableWorkspace
from distsgd.core.reduction import PartialSum
from distsgd.core.sampling import PrefetchedRows
from distsgd.data.gatherer import exact_gatherer
from distsgd.engine.portable_worker import piece_rows
from distsgd.engine.serial import SerialLoop
from distsgd.engine.snapshot import Snapshot
from distsgd.engine.spec import RunSpec


class PortableSerialLoop(SerialLoop):
    """Computes one step after another."""

    _l2_loss = staticmethod(l2_loss)

    def __init__(self, spec: RunSpec) -> None:
        self._config, self._net, self._plan = spec.config, spec.net, spec.plan
        sampler, data, bounds = spec.plan.sampler, spec.data, spec.plan.bounds
        assert bounds is not None, "exact sums need the bounds of the rows"
        count = sampler.batch_count(0)
        self._shards = range(sampler.num_shards)
        self._blocks, self._rule = list(optim.blocks(spec.net)), update_rule(spec.config.optim)
        self._rows = PrefetchedRows(sampler, spec.plan.total_steps, joined=True)
        self._piece = piece_rows(spec.net, count)
        self._batch, _ = exact_gatherer(data.train, data.transform, self._piece, "cpu")
        self._grids = Grids(spec.net, bounds.train, count)
        self._exact = PortableWorkspace(spec.net, self._piece, np)
        self._sums = np.empty((2, spec.net.size))

    def _total(self, state: Snapshot) -> PartialSum:
        """Return the sum over the mini-batch that follows `state`, with its gradient rounded to float32."""
        rows, parameters = self._rows.of(state.step, self._shards)[0], self._net.split(state.parameters)
        grids, (total, other) = self._grids.of(parameters), self._sums
        total.fill(0)
        loss = weight = 0.0
        for start in range(0, len(rows), self._piece):
            examples = self._batch.gather(rows[start : start + self._piece])
            out = self._net.split(other)
            loss += loss_and_gradient_sums(parameters, *examples, grids=grids, out=out, workspace=self._exact)
            weight += self._grids.weight(examples.weights, len(examples.X))
            np.add(total, other, out=total)
        rounded = np.empty_like(state.parameters)
        for part, _ in self._blocks:
            gradient(total[part], part, self._net, self._grids, rounded[part], np)
        return PartialSum((0, len(self._shards)), rounded, loss, len(rows), weight)

    def _squares(self, total: PartialSum, W: np.ndarray, scratch: np.ndarray) -> list[float]:
        """Return numbers whose exact sum is the squared norm of the gradient, L2 included."""
        g, l2 = total.gradient.copy(), self._config.optim.l2
        return [
            square
            for b, biases in self._blocks
            for square in squared_norm(g[b], total.weight, W[b], biases=biases, l2=l2, scratch=scratch[b], xp=np)
        ]


def serial_loop(spec: RunSpec) -> SerialLoop:
    """Return the serial loop of a run's arithmetic."""
    return SerialLoop(spec) if spec.plan.bounds is None else PortableSerialLoop(spec)
