"""The serial loop, in one process and without Ray: the specification that every distributed path must reproduce.

Read `SerialLoop.step` for what training is. It shares no code with the parameter server and the workers but the pure
functions of model, optim, reduction and sampling.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from distsgd.core import optim
from distsgd.core.net import Workspace, loss_and_gradient_sums
from distsgd.core.reduction import PartialSum, added, additions, combine
from distsgd.core.sampling import IntArray, PrefetchedRows
from distsgd.data.gatherer import Gatherer
from distsgd.engine.spec import RunSpec
from distsgd.engine.state import Snapshot


class SerialLoop:
    """One step after the other, one shard after the other."""

    def __init__(self, spec: RunSpec) -> None:
        self._config, self._net, self._plan = spec.config, spec.net, spec.plan
        sampler, data = spec.plan.sampler, spec.data
        self._shards = range(sampler.num_shards)
        self._additions = additions(tuple((k, k + 1) for k in self._shards), (0, sampler.num_shards))
        self._blocks = list(optim.blocks(spec.net))
        self._rows = PrefetchedRows(sampler)
        self._batch = Gatherer(data.train, data.transform, sampler.max_shard_count, "cpu")
        self._workspace = Workspace(spec.net, sampler.max_shard_count, np)

    def step(self, state: Snapshot) -> tuple[Snapshot, float]:
        """Return the state after one more step, and the loss L of the step's mini-batch."""
        net, config, lr = self._net, self._config.optim, self._plan.learning_rate(state.step)
        W, rows = state.parameters, self._rows.of(state.step, self._shards)

        leaves = (self.shard_gradient(W, shard, rows[shard]) for shard in self._shards)
        total = combine(leaves, self._additions, added)
        new, scratch = np.empty_like(W), np.empty_like(W)
        velocity = None if state.velocity is None else np.empty_like(W)
        if config.clip_norm is not None:
            g = total.gradient.copy()
            squares = [
                optim.squared_norm(g[b], total.weight, W[b], biases=biases, l2=config.l2, scratch=scratch[b])
                for b, biases in self._blocks
            ]
            lr *= optim.clip_factor(config, squares)
        for b, biases in self._blocks:
            optim.update(
                total.gradient[b],
                total.weight,
                W[b],
                None if state.velocity is None else state.velocity[b],
                lr=lr,
                biases=biases,
                config=config,
                out=new[b],
                velocity_out=None if velocity is None else velocity[b],
                scratch=scratch[b],
            )
        loss = total.loss / total.weight + optim.l2_loss(net, W, config.l2)
        return replace(state, step=state.step + 1, parameters=new, velocity=velocity), loss

    def shard_gradient(self, flat: np.ndarray, shard: int, rows: IntArray) -> PartialSum:
        """Return the sums of losses and gradients over the examples of one shard, in arrays of their own."""
        gradient = np.empty_like(flat)
        X, y = self._batch.gather(rows)
        out = self._net.split(gradient)
        loss = loss_and_gradient_sums(self._net.split(flat), X, y, out=out, workspace=self._workspace)
        return PartialSum((shard, shard + 1), gradient, loss, len(rows), float(len(rows)))
