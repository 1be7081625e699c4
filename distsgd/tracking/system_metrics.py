"""How busy the driver's machine is, in the run's system metrics: CPU, memory, disk, network, GPUs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.tracking import MlflowClient


class SystemMetrics:
    """MLflow's own measurements, made on the thread that asks for them.

    The thread that MLflow has for them ends for good when the store does not answer once, and is waited for at the end.
    MLflow's variables say how often: MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL, ten seconds if it is unset, and
    MLFLOW_SYSTEM_METRICS_SAMPLES_BEFORE_LOGGING.
    """

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        """Go on after the last point that the run has; any exception means that this machine cannot be measured."""
        monitor: Callable[..., Any] = SystemMetricsMonitor  # whose methods have no types
        self._monitor = monitor(run_id, resume_logging=True, tracking_uri=client.tracking_uri)
        self._monitor.collect_metrics()  # psutil's use of the CPUs is that since the call before
        for part in self._monitor.monitors:
            part.clear_metrics()
        self._samples, self._due = 0, time.monotonic() + self._monitor.sampling_interval

    def sample(self) -> None:
        """Measure if it is time to; an exception of mlflow's if the store does not take what was measured."""
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + self._monitor.sampling_interval
        self._monitor.collect_metrics()
        self._samples += 1
        if self._samples >= self._monitor.samples_before_logging:
            self._publish()

    def finish(self) -> None:
        """Measure once more, and send all that was measured; exceptions as from `sample`."""
        self._monitor.collect_metrics()
        self._publish()
        self._monitor.mlflow_logger.flush()

    def _publish(self) -> None:
        self._samples = 0
        self._monitor.publish_metrics(self._monitor.aggregate_metrics())
