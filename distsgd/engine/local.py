"""Training in this process, without Ray: the serial loop, or threads, with the interface of the Ray trainer."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from distsgd.core import numerics
from distsgd.engine import validation
from distsgd.engine.computing import validation_for
from distsgd.engine.portable_serial import serial_loop
from distsgd.engine.snapshot import Snapshot
from distsgd.engine.spec import RunSpec
from distsgd.engine.threads import TICK_S, ThreadedTraining, default_threads, is_short
from distsgd.engine.timing import StepTimes
from distsgd.engine.validation import NO_EXTRAS, BlockResult, Evaluation, Extras


class SerialTraining:
    """Trains with the serial loop, from the start state of a run."""

    def __init__(self, spec: RunSpec) -> None:
        self._config, self._plan, self._state = spec.config, spec.plan, spec.start
        self._loop = serial_loop(spec)
        self._records: list[dict[str, Any]] = []
        self._times = StepTimes()
        self._stopped = False

    def run(self, until: int, tick: Callable[[], None]) -> int:
        """See LocalTrainer.run."""
        self._times.start(time.perf_counter())
        next_tick = time.monotonic() + TICK_S
        while self._state.step < until and not self._stopped:
            count = self._plan.sampler.batch_count(self._state.step)
            with np.errstate(all="ignore"):  # overflow is detected from the results
                state, loss = self._loop.step(self._state)
            self._times.add(time.perf_counter(), count)
            self._state = state
            if state.step % self._config.train.log_every == 0 or state.step == until:
                self._record(loss)
            if time.monotonic() >= next_tick:
                tick()
                next_tick = time.monotonic() + TICK_S
        return self._state.step

    def _record(self, loss: float) -> None:
        state = self._state
        record = self._plan.record(state.step, loss, skipped=state.skipped, epoch_loss=state.epoch_loss)
        record |= self._times.since_last()
        self._records.append(record)
        self._state = dataclasses.replace(state, last_record=record)

    def stop(self) -> None:
        """See LocalTrainer.stop."""
        self._stopped = True

    def take_records(self) -> list[dict[str, Any]]:
        """See LocalTrainer.take_records."""
        records, self._records = self._records, []
        return records

    def recover(self, start: Snapshot) -> None:
        """See LocalTrainer.recover."""
        self._state = start

    def snapshot(self) -> Snapshot:
        """See LocalTrainer.snapshot."""
        return self._state

    def timings(self) -> dict[str, float]:
        """See LocalTrainer.timings."""
        return self._times.summary()

    def close(self) -> None:
        """Do nothing: there are no threads."""


class LocalTrainer:
    """Trains in this process, with the interface of RayTrainer: on `run.threads` threads; one is the serial loop."""

    nodes = 1

    def __init__(self, spec: RunSpec) -> None:
        self._config, self._stopped = spec.config, False
        with contextlib.ExitStack() as stack:
            stack.enter_context(numerics.pinned_blas(self._config.run.blas_threads, self._config.run.blas_kernel))
            self.numerics = numerics.fingerprint("cpu")
            self._training = _training(spec)
            stack.callback(self._training.close)
            self._ending = stack.pop_all()
        self._val, transform, self._net = spec.data.val, spec.data.transform, spec.net
        self._validation = None
        if self._val is not None:
            self._validation = validation_for(spec.net, spec.plan.bounds, self._val, transform, "cpu")

    def run(self, until: int, tick: Callable[[], None]) -> int:
        """Train up to step `until` or until `stop`; call `tick` several times a second. Return the steps done."""
        return self._training.run(until, tick)

    def stop(self) -> None:
        """Make `run` return after the current step."""
        self._stopped = True
        self._training.stop()

    def take_records(self) -> list[dict[str, Any]]:
        """Return the journal records since the last call, oldest first."""
        return self._training.take_records()

    def take_notices(self) -> list[str]:
        """Return no notices: there are no other processes to report on."""
        return []

    def recover(self, start: Snapshot) -> None:
        """Continue from an earlier state."""
        self._training.recover(start)

    def snapshot(self) -> Snapshot:
        """Return the state after the last step."""
        return self._training.snapshot()

    def timings(self) -> dict[str, float]:
        """Return the step-time percentiles and the throughput for the result."""
        return self._training.timings()

    def evaluate(
        self, tick: Callable[[], None], extras: Extras = NO_EXTRAS, *, weights: np.ndarray | None = None
    ) -> Evaluation | None:
        """Return what the held-out rows give; None if `tick` has called `stop`.

        The weights are the last ones, or `weights` (P,).
        """
        if self._validation is None or self._val is None:
            return Evaluation()
        flat, found = self.snapshot().parameters if weights is None else weights, list[BlockResult]()
        next_tick = time.monotonic() + TICK_S
        for block in range(validation.block_count(len(self._val))):
            found += self._validation.evaluate(flat, range(block, block + 1), extras)
            if time.monotonic() >= next_tick:
                tick()
                next_tick = time.monotonic() + TICK_S
                if self._stopped:
                    return None
        return validation.evaluation(found, self._net)

    def close(self) -> None:
        """End the threads, and restore the number of BLAS threads of this process."""
        self._ending.close()


def _training(spec: RunSpec) -> SerialTraining | ThreadedTraining:
    threads, shards = spec.config.run.threads, spec.plan.sampler.num_shards
    if threads == 1:
        return SerialTraining(spec)
    if threads != "auto":
        return ThreadedTraining(spec, min(threads, shards))
    batch_size = spec.config.train.batch_size
    wanted = default_threads(spec.net, batch_size, shards)
    return ThreadedTraining(spec, wanted, adaptive=is_short(spec.net, batch_size))
