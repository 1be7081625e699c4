"""Training in this process, without Ray: the serial loop with the interface of the Ray trainer."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from distsgd.core import numerics
from distsgd.engine import validation
from distsgd.engine.serial import SerialLoop
from distsgd.engine.snapshot import Snapshot
from distsgd.engine.spec import RunSpec
from distsgd.engine.timing import StepTimes
from distsgd.engine.validation import BlockResult, Evaluation

TICK_S = 0.2
"""Seconds between two calls of `tick`."""


class LocalTrainer:
    """Runs the serial loop, with the interface of RayTrainer."""

    nodes = 1

    def __init__(self, spec: RunSpec) -> None:
        self._config, self._plan, self._state = spec.config, spec.plan, spec.start
        self._loop = SerialLoop(spec)
        self._records: list[dict[str, Any]] = []
        self._times = StepTimes()
        self._stopped = False
        self._blas = contextlib.ExitStack()
        self._blas.enter_context(numerics.pinned_blas(self._config.run.blas_threads, self._config.run.blas_kernel))
        self.numerics = numerics.fingerprint("cpu")
        self._val, transform, self._net = spec.data.val, spec.data.transform, spec.net
        self._validation = None if self._val is None else validation.Validation(spec.net, self._val, transform, "cpu")

    def run(self, until: int, tick: Callable[[], None]) -> int:
        """Train up to step `until` or until `stop`; call `tick` several times a second. Return the steps done."""
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
        """Make `run` return after the current step."""
        self._stopped = True

    def take_records(self) -> list[dict[str, Any]]:
        """Return the journal records since the last call, oldest first."""
        records, self._records = self._records, []
        return records

    def take_notices(self) -> list[str]:
        """Return no notices: there are no other processes to report on."""
        return []

    def recover(self, start: Snapshot) -> None:
        """Continue from an earlier state."""
        self._state = start

    def snapshot(self) -> Snapshot:
        """Return the state after the last step."""
        return self._state

    def timings(self) -> dict[str, float]:
        """Return the step-time percentiles and the throughput for the result."""
        return self._times.summary()

    def evaluate(self, tick: Callable[[], None], *, confusion: bool = False) -> Evaluation | None:
        """Return loss and accuracy over the held-out rows, and their confusion; None if `tick` has called `stop`."""
        if self._validation is None or self._val is None:
            return Evaluation()
        found = list[BlockResult]()
        next_tick = time.monotonic() + TICK_S
        for block in range(validation.block_count(len(self._val))):
            found += self._validation.evaluate(self._state.parameters, range(block, block + 1), confusion=confusion)
            if time.monotonic() >= next_tick:
                tick()
                next_tick = time.monotonic() + TICK_S
                if self._stopped:
                    return None
        return validation.evaluation(found, self._net)

    def close(self) -> None:
        """Restore the number of BLAS threads of this process."""
        self._blas.close()
