"""The parameter server: owns the parameters, averages the workers' gradients and applies the update.

A plain class that runs without Ray; trainer.py makes an actor of it. How it reaches the workers is the link's affair.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from distsgd import optim, reduction
from distsgd.config import Config
from distsgd.errors import NonFiniteError
from distsgd.links import ServerLink
from distsgd.model import Net
from distsgd.reduction import Node, Partial
from distsgd.state import Plan, Snapshot
from distsgd.timing import StepTimes


class ParameterServer:
    """Parameters, update rule and step counter. `run` trains; the other methods may be called meanwhile."""

    def __init__(self, *, config: Config, net: Net, plan: Plan, start: Snapshot) -> None:
        self.config, self.net, self.plan = config, net, plan
        self.step = start.step
        # Updates are written to the other buffer, so that no reader sees half of one and a bad one is dropped.
        self._parameters = np.stack([start.parameters, start.parameters])
        self._velocity = None if start.velocity is None else np.stack([start.velocity, start.velocity])
        self._current = 0
        self._blocks = list(optim.blocks(net))
        self._sums = np.empty((reduction.buffers(config.train.num_shards), optim.BLOCK), np.float32)
        self._g = np.empty(optim.BLOCK, np.float32)
        self._scratch = np.empty(optim.BLOCK, np.float32)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._records: list[dict[str, Any]] = []
        self._last_record = start.last_record
        self._times = StepTimes()

    @property
    def parameters(self) -> np.ndarray:
        """The parameters (P,) after `step` steps; overwritten two steps later."""
        current: np.ndarray = self._parameters[self._current]
        return current

    def run(self, link: ServerLink, until: int) -> int:
        """Train up to step `until`, or until `stop` is called; return the number of steps done in all.

        Raises NonFiniteError with the parameters as they were before the offending step.
        """
        self._times.start(time.perf_counter())
        with np.errstate(all="ignore"):  # what overflows is found by looking at the results
            while self.step < until and not self._stop.is_set():
                partials = link.exchange(self.step, self.parameters)
                loss = self.apply(partials)
                self._times.add(time.perf_counter(), sum(partial.examples for partial in partials))
                if self.step % self.config.train.log_every == 0 or self.step == until:
                    self._record(loss)
        return self.step

    def apply(self, partials: Sequence[Partial]) -> float:
        """Add the gradients in the canonical tree, apply the update; return the mini-batch's mean loss without L2.

        Raises NonFiniteError, leaving the parameters as they were, if the loss or the gradient is not finite.
        """
        held = {partial.node: partial for partial in partials}
        num_shards = self.config.train.num_shards
        if not reduction.is_complete(held, num_shards):
            raise ValueError(f"step {self.step}: gradients came for {sorted(held)} of {num_shards} shards")
        count = sum(partial.examples for partial in partials)
        loss = reduction.sum_of_losses(held, num_shards) / count
        if not (np.isfinite(loss) and self._update(held, count)):
            raise NonFiniteError(f"step {self.step}: the mini-batch's loss ({loss}) or gradient is not finite")
        with self._lock:
            self._current = 1 - self._current
            self.step += 1
        return loss

    def _update(self, held: Mapping[Node, Partial], count: int) -> bool:
        """Write the updated parameters to the other buffer; return whether the whole gradient was finite."""
        config, old, new = self.config.optim, self._current, 1 - self._current
        lr, velocity = self.plan.learning_rate(self.step), self._velocity
        for part, decays in self._blocks:
            total = self._block_sum(held, part)
            g, scratch = self._g[: len(total)], self._scratch[: len(total)]
            weights = self._parameters[old, part]
            optim.average(total, count, weights, config.l2 if decays else 0.0, out=g, scratch=scratch)
            if not (np.isfinite(np.dot(g, g)) or np.isfinite(g).all()):
                return False
            optim.update(
                weights,
                g,
                None if velocity is None else velocity[old, part],
                lr=lr,
                config=config,
                out=self._parameters[new, part],
                velocity_out=None if velocity is None else velocity[new, part],
            )
        return True

    def _block_sum(self, held: Mapping[Node, Partial], part: slice) -> np.ndarray:
        """Return one block of the gradients' sum over all shards, as a view of what is held or of a buffer."""

        def known(node: Node, _: int) -> np.ndarray | None:
            if node not in held:
                return None
            gradient: np.ndarray = held[node].gradient
            return gradient[part]

        def add(left: np.ndarray, right: np.ndarray, buffer: int) -> np.ndarray:
            return np.add(left, right, out=self._sums[buffer, : len(left)])

        total: np.ndarray = reduction.tree_sum((0, self.config.train.num_shards), known, add)
        return total

    def _record(self, loss: float) -> None:
        """Note the step just done for the journal: its mini-batch's loss L, with the weights that it started from."""
        before = self._parameters[1 - self._current]
        loss += optim.l2_loss(self.net, before, self.config.optim.l2)
        record = self.plan.record(self.step, loss) | self._times.since_last()
        with self._lock:
            self._last_record = record
            self._records.append(record)

    def take_records(self) -> list[dict[str, Any]]:
        """Return the journal records since the last call, oldest first."""
        with self._lock:
            records, self._records = self._records, []
        return records

    def snapshot(self) -> Snapshot:
        """Return a consistent copy of the state at the end of some step."""
        with self._lock:
            velocity = None if self._velocity is None else self._velocity[self._current].copy()
            return Snapshot(
                step=self.step, parameters=self.parameters.copy(), velocity=velocity, last_record=self._last_record
            )

    def current_parameters(self) -> np.ndarray:
        """Return a consistent copy of the parameters (P,)."""
        return self.snapshot().parameters

    def stop(self) -> None:
        """Make `run` return at the end of the step at hand."""
        self._stop.set()

    def timings(self) -> dict[str, float]:
        """Return the percentiles and the throughput that the result names."""
        return self._times.summary()
