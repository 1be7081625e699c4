"""Step times, for the journal and the result."""

from __future__ import annotations

from collections import deque

import numpy as np

WARM_UP_S = 1.0
"""Warm-up, in seconds of step time, that the summary leaves out unless there are no later steps."""

KEPT = 100_000
"""Number of most recent steps that the percentiles are computed over."""


class StepTimes:
    """Durations of steps, each measured from the end of the previous one."""

    def __init__(self) -> None:
        self._end = 0.0
        self._steps: deque[tuple[float, int]] = deque(maxlen=KEPT)  # seconds, examples
        self._warm_up_s = 0.0
        self._is_warm_up = True
        self._since = (0, 0.0, 0)  # steps, seconds, examples

    def start(self, now: float) -> None:
        """Start timing at `now`, in seconds of any clock."""
        self._end = now

    def add(self, now: float, examples: int) -> None:
        """Record that a step over `examples` examples ended at `now`."""
        seconds, self._end = now - self._end, now
        if self._is_warm_up:
            if self._warm_up_s >= WARM_UP_S:
                self._is_warm_up = False
                self._steps.clear()
            self._warm_up_s += seconds
        self._steps.append((seconds, examples))
        steps, before, seen = self._since
        self._since = (steps + 1, before + seconds, seen + examples)

    def since_last(self) -> dict[str, float]:
        """Return the mean step time and the throughput since the last call."""
        (steps, seconds, examples), self._since = self._since, (0, 0.0, 0)
        if not steps or not seconds:
            return {}
        return {"time/step_ms": 1e3 * seconds / steps, "time/samples_per_s": examples / seconds}

    def summary(self) -> dict[str, float]:
        """Return `step_ms_p50`, `step_ms_p95` and `samples_per_s`; an empty dict if no step was timed."""
        if not self._steps:
            return {}
        seconds, examples = np.array(self._steps).T
        p50, p95 = np.percentile(seconds * 1e3, [50, 95])
        return {
            "step_ms_p50": float(p50),
            "step_ms_p95": float(p95),
            "samples_per_s": float(examples.sum() / seconds.sum()),
        }
