"""The serial loop, in one process and without Ray: the reference that every distributed path must reproduce.

Read `SerialLoop.step` to see the training algorithm. It shares only pure functions with the parameter server and the
workers: forward and backward pass, update rule, canonical tree, sampling, and the check whether an update is applied.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from distsgd.core import optim
from distsgd.core.backprop import loss_and_gradient_sums
from distsgd.core.packing import touch_buffers
from distsgd.core.reduction import PartialSum, added, additions, combine
from distsgd.core.sampling import IntArray, PrefetchedRows
from distsgd.core.update_rules import Step, update_rule
from distsgd.core.workspace import Workspace
from distsgd.data.gatherer import Gatherer
from distsgd.engine.acceptance import is_applied
from distsgd.engine.snapshot import NO_LOSS, Snapshot
from distsgd.engine.spec import RunSpec


class SerialLoop:
    """Computes one step after another, one shard after another."""

    _l2_loss = staticmethod(optim.l2_loss)

    def __init__(self, spec: RunSpec) -> None:
        self._config, self._net, self._plan = spec.config, spec.net, spec.plan
        sampler, data = spec.plan.sampler, spec.data
        self._shards = range(sampler.num_shards)
        self._additions = additions(tuple((k, k + 1) for k in self._shards), (0, sampler.num_shards))
        self._blocks, self._rule = list(optim.blocks(spec.net)), update_rule(spec.config.optim)
        self._rows = PrefetchedRows(sampler, spec.plan.total_steps)
        self._batch = Gatherer(data.train, data.transform, sampler.max_shard_count, "cpu")
        self._workspace = Workspace(spec.net, sampler.max_shard_count, np)
        touch_buffers()

    def step(self, state: Snapshot) -> tuple[Snapshot, float]:
        """Return the state after one more step, and the loss L of the step's mini-batch.

        A non-finite update is not applied: raise NonFiniteError, or count the step as skipped if `train.on_nonfinite`
        is `skip`.
        """
        W, total = state.parameters, self._total(state)
        new = self._updated(state, total)
        loss = total.loss / total.weight
        so_far = NO_LOSS if self._plan.begins_epoch(state.step) else state.epoch_loss
        finite = bool(np.isfinite(new.parameters).all())
        if is_applied(self._config.train, new.step, loss, finite=finite):
            new = replace(new, epoch_loss=so_far.plus(total.loss, total.weight))
        else:
            new = replace(state, step=new.step, skipped=state.skipped + 1, epoch_loss=so_far)
        return new, loss + self._l2_loss(self._net, W, self._config.optim.l2, np)

    def _total(self, state: Snapshot) -> PartialSum:
        """Return the sum over the mini-batch that follows `state`."""
        rows = self._rows.of(state.step, self._shards)
        leaves = (self.shard_gradient(state.parameters, shard, rows[shard]) for shard in self._shards)
        return combine(leaves, self._additions, added)

    def _updated(self, state: Snapshot, total: PartialSum) -> Snapshot:
        """Return the state after the update with a mini-batch's gradient sum, which is overwritten."""
        W, config, clip = state.parameters, self._config.optim, 1.0
        new, scratch = np.empty_like(W), np.empty_like(W)
        slots = {name: np.empty_like(W) for name in state.slots}
        if config.clip_norm is not None:
            clip = optim.clip_factor(config, self._squares(total, W, scratch))
        number = self._plan.update_number(state.step)
        step = Step(total.weight, self._plan.learning_rate(state.step), clip, number)
        for b, biases in self._blocks:
            self._rule.update(
                total.gradient[b],
                W[b],
                {name: slot[b] for name, slot in state.slots.items()},
                step=step,
                biases=biases,
                out=new[b],
                slots_out={name: slot[b] for name, slot in slots.items()},
                scratch=scratch[b],
                xp=np,
            )
        return replace(state, step=state.step + 1, parameters=new, slots=slots)

    def _squares(self, total: PartialSum, W: np.ndarray, scratch: np.ndarray) -> list[float]:
        """Return the squared norm of each block of the gradient, L2 included."""
        g, l2 = total.gradient.copy(), self._config.optim.l2
        return [
            optim.squared_norm(g[b], total.weight, W[b], biases=biases, l2=l2, scratch=scratch[b], xp=np)
            for b, biases in self._blocks
        ]

    def shard_gradient(self, flat: np.ndarray, shard: int, rows: IntArray) -> PartialSum:
        """Return the sums of losses and gradients over the examples of one shard, in new arrays."""
        gradient = np.empty_like(flat)
        examples = self._batch.gather(rows)
        out = self._net.split(gradient)
        loss = loss_and_gradient_sums(self._net.split(flat), *examples, out=out, workspace=self._workspace)
        return PartialSum((shard, shard + 1), gradient, loss, len(rows), examples.weight)
