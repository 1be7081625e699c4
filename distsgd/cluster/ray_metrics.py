"""What a run's actors report to Ray, whose nodes offer it to Prometheus; docker/grafana.json shows it.

Ray puts `ray_` before the names and adds tags of its own, such as the node's address.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping

from ray.util.metrics import Gauge

from distsgd.cluster.launching import Label

GAUGES = {
    "distsgd_step": "Steps that the run has done.",
    "distsgd_train_loss": "Mean loss of the last mini-batch that was logged.",
    "distsgd_step_ms": "Milliseconds of a step, mean since the step that was logged before.",
    "distsgd_samples_per_second": "Examples in a second, since the step that was logged before.",
    "distsgd_worker_waiting_share": "Share of the time in which the worker computed no gradient.",
}
"""The gauges, with what they say; each has the tags `run` and `role`."""

PERIOD_S = 5.0
"""Seconds between two reports."""


class Reporter:
    """Reports what `sample` returns, every PERIOD_S, in a thread that ends with the process."""

    def __init__(self, label: Label, sample: Callable[[], Mapping[str, float]]) -> None:
        self._tags = label._asdict()
        self._gauges: dict[str, Gauge] = {}
        self._end = threading.Event()
        # Only the thread holds `sample`, so that what it samples is released when it ends.
        threading.Thread(target=self._run, args=[sample], name="metrics", daemon=True).start()

    def _run(self, sample: Callable[[], Mapping[str, float]]) -> None:
        while not self._end.wait(PERIOD_S):
            for name, value in sample().items():
                if math.isfinite(value):
                    self._gauge(name).set(value, self._tags)

    def _gauge(self, name: str) -> Gauge:
        if name not in self._gauges:
            self._gauges[name] = Gauge(name, GAUGES[name], tuple(self._tags))
        return self._gauges[name]

    def close(self) -> None:
        """Report no more."""
        self._end.set()


class WaitingShare:
    """The share of the time between two samples in which something else was not done."""

    def __init__(self, busy_s: Callable[[], float], clock: Callable[[], float]) -> None:
        """`busy_s` returns for how long it has been done in all."""
        self._busy_s, self._clock = busy_s, clock
        self._last = (clock(), busy_s())

    def __call__(self) -> dict[str, float]:
        """Return the share since the last call."""
        last, now = self._last, (self._clock(), self._busy_s())
        self._last, passed_s = now, now[0] - last[0]
        if passed_s <= 0:
            return {}
        return {"distsgd_worker_waiting_share": min(1.0, max(0.0, 1 - (now[1] - last[1]) / passed_s))}
