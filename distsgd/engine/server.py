"""The parameter server: owns the parameters, averages the workers' gradients and applies the update.

A plain class that runs without Ray; cluster/actors.py wraps it in an actor. It communicates with workers over a `Link`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from distsgd.config import Config
from distsgd.core import optim
from distsgd.core.net import Net
from distsgd.core.reduction import PartialSum
from distsgd.core.update_rules import Step
from distsgd.engine.acceptance import is_applied
from distsgd.engine.aggregation import Additions, Gradients
from distsgd.engine.arithmetic import ARITHMETICS
from distsgd.engine.plan import Plan, summation
from distsgd.engine.portable_aggregation import aggregation_for
from distsgd.engine.snapshot import EpochLoss, Snapshot
from distsgd.engine.sums import StepSums
from distsgd.engine.timing import StepTimes
from distsgd.system import faults


class Link(Protocol):
    """The interface of the parameter server to the workers; implemented by comm.dispatcher.Dispatcher."""

    @property
    def buffers(self) -> np.ndarray:
        """The two parameter buffers (2, P) float32 that workers read."""
        ...

    def exchange(self, step: int, buffer: int, shards: range) -> list[PartialSum]:
        """Return the gradients of `shards` for step `step`, with the parameters in one of the buffers."""
        ...


class ParameterServer:
    """Parameters, update rule and step counter. `run` trains; other methods may be called from other threads."""

    def __init__(self, *, config: Config, net: Net, plan: Plan, start: Snapshot, link: Link, threads: int = 1) -> None:
        self.config, self.net, self.plan, self.link = config, net, plan, link
        self.step, self.skipped = start.step, start.skipped
        self._epoch_loss, self._epoch_weight = start.epoch_loss
        self._steps_per_epoch = plan.sampler.steps_per_epoch
        # Updates go to the other buffer, so that readers never see a partial one, and a bad one can be dropped.
        self._parameters: list[np.ndarray] = list(link.buffers)
        for buffer in self._parameters:
            buffer[:] = start.parameters
        self._slots = [{name: slot.copy() for name, slot in start.slots.items()} for _ in self._parameters]
        self._current = self._before = 0
        self._threads = threads
        self._summation = summation(config)
        self._aggregation = aggregation_for(
            net,
            plan.bounds,
            config.optim,
            list(optim.blocks(net)),
            self._summation,
            plan.sampler.batch_count(0),
            threads=threads,
        )
        self._l2_loss = ARITHMETICS[net.arithmetic].l2_loss
        self._shards = range(self._summation.num_shards)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._records: list[dict[str, Any]] = []
        self._last_record = start.last_record
        self._times = StepTimes()

    @property
    def parameters(self) -> np.ndarray:
        """The parameters (P,) after `step` steps; overwritten two steps later."""
        return self._parameters[self._current]

    @np.errstate(all="ignore")  # an update is checked from its results, and a record leaves out a non-finite loss
    def run(self, until: int) -> int:
        """Train up to step `until`, or until `stop` is called; return the total number of steps done.

        Raise NonFiniteError, with the parameters as before the offending step, and any error that the link raises.
        """
        self._times.start(time.perf_counter())
        self._run_alone(until)
        return self.step

    def _run_alone(self, until: int) -> None:
        """Train as the only server, until `_stop` is set."""
        while self.step < until and not self._stop.is_set():
            faults.reached("server", 0, self.step + 1, "begun")
            partials = self.link.exchange(self.step, self._current, self._shards)
            faults.reached("server", 0, self.step + 1, "gathered")
            sums = self.apply(partials)
            faults.reached("server", 0, self.step, "applied")
            self._note(sums, until)

    def apply(self, partials: Sequence[PartialSum]) -> StepSums:
        """Add the gradients along the canonical tree and apply the update; return the sums.

        If the loss or the gradient is not finite, the parameters remain unchanged: raise NonFiniteError, or count the
        step as skipped if `train.on_nonfinite` is `skip`.
        """
        sums = StepSums.of(self.step, partials, self._summation)
        self._commit(sums, finite=self._update(sums.gradients, sums.plan, sums.weight))
        return sums

    def _commit(self, sums: StepSums, *, finite: bool) -> None:
        """Make the update visible, unless it is not finite."""
        applied = is_applied(self.config.train, self.step + 1, sums.loss, finite=finite)
        with self._lock:
            if self.step % self._steps_per_epoch == 0:
                self._epoch_loss = self._epoch_weight = 0.0
            self.step += 1
            self._before = self._current
            if applied:
                self._current = 1 - self._current
                self._epoch_loss += sums.total
                self._epoch_weight += sums.weight
            else:
                self.skipped += 1

    def _note(self, sums: StepSums, until: int) -> None:
        """Note the time of the last step, and record it if it is to be logged."""
        self._times.add(time.perf_counter(), sums.examples)
        if self.step % self.config.train.log_every == 0 or self.step == until:
            self._record(sums.loss)

    def _update(self, gradients: Gradients, plan: Additions, weight: float) -> bool:
        """Write the updated parameters to the other buffer; return whether all of them are finite."""
        old, new, config = self._current, 1 - self._current, self.config.optim
        weights, clip = self._parameters[old], 1.0
        if config.clip_norm is not None:
            clip = optim.clip_factor(config, self._aggregation.squares(gradients, plan, weight, weights))
        return self._aggregation.update(
            gradients,
            plan,
            weights,
            self._slots[old],
            step=Step(weight, self.plan.learning_rate(self.step), clip, self.plan.update_number(self.step)),
            out=self._parameters[new],
            slots_out=self._slots[new],
        )

    def _record(self, loss: float) -> None:
        """Record the last step for the journal: its mini-batch's loss L, with the weights before the update."""
        loss += self._l2_loss(self.net, self._parameters[self._before], self.config.optim.l2, np)
        record = self.plan.record(self.step, loss, skipped=self.skipped, epoch_loss=self._loss_of_epoch())
        record |= self._times.since_last()
        with self._lock:
            self._last_record = record
            self._records.append(record)

    def _loss_of_epoch(self) -> EpochLoss:
        return EpochLoss(self._epoch_loss, self._epoch_weight)

    @property
    def last_record(self) -> dict[str, Any] | None:
        """The newest record, which `take_records` may have returned already."""
        return self._last_record

    def take_records(self) -> list[dict[str, Any]]:
        """Return the journal records since the last call, oldest first."""
        with self._lock:
            records, self._records = self._records, []
        return records

    def snapshot(self) -> Snapshot:
        """Return a consistent copy of the state at the end of some step."""
        with self._lock:
            return self._copy()

    def _copy(self) -> Snapshot:
        return Snapshot(
            step=self.step,
            parameters=self.parameters.copy(),
            slots={name: slot.copy() for name, slot in self._slots[self._current].items()},
            skipped=self.skipped,
            epoch_loss=self._loss_of_epoch(),
            last_record=self._last_record,
        )

    def current_parameters(self) -> np.ndarray:
        """Return a consistent copy of the parameters (P,)."""
        with self._lock:
            return self.parameters.copy()

    def stop(self) -> None:
        """Make `run` return after the current step."""
        self._stop.set()

    def timings(self) -> dict[str, float]:
        """Return the step-time percentiles and the throughput for the result."""
        return self._times.summary()
