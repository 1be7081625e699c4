"""Starts the trainer of a run, on Ray or in this process, with all `auto` values resolved."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from distsgd.cluster.connection import started
from distsgd.cluster.resources import Cluster, choose_device, default_workers, total_cpus
from distsgd.config import Config
from distsgd.core import numerics
from distsgd.core.backend import Device
from distsgd.core.net import Array
from distsgd.data import DataSet
from distsgd.engine.local import LocalTrainer
from distsgd.engine.snapshot import Snapshot
from distsgd.engine.spec import RunSpec
from distsgd.engine.validation import NO_EXTRAS, Evaluation, Extras
from distsgd.errors import ResourceError
from distsgd.system import faults

if TYPE_CHECKING:
    from distsgd.cluster.rows import SharedRows


class Trainer(Protocol):
    """The interface that a session uses; implemented by engine.local.LocalTrainer and cluster.trainer.RayTrainer."""

    numerics: dict[str, str]
    nodes: int
    """Nodes that workers were started on."""

    def run(self, until: int, tick: Callable[[], None]) -> int: ...  # noqa: D102
    def stop(self) -> None: ...  # noqa: D102
    def take_records(self) -> list[dict[str, Any]]: ...  # noqa: D102
    def take_notices(self) -> list[str]: ...  # noqa: D102
    def snapshot(self) -> Snapshot: ...  # noqa: D102
    def recover(self, start: Snapshot) -> None: ...  # noqa: D102
    def timings(self) -> dict[str, float]: ...  # noqa: D102
    def evaluate(  # noqa: D102
        self, tick: Callable[[], None], extras: Extras = NO_EXTRAS, *, weights: Array | None = None
    ) -> Evaluation | None: ...
    def close(self) -> None: ...  # noqa: D102


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """The values of `auto` settings, resolved for a cluster."""

    workers: int
    device: Device
    config: Config
    """The configuration with the resolved values."""


def environment(config: Config) -> dict[str, str]:
    """Return the environment variables that all processes of a run need, on every node."""
    return numerics.environment(config.run.blas_threads, config.run.blas_kernel) | faults.environment()


def resolve(config: Config, found: Cluster) -> Resolved:
    """Resolve `auto` settings; ResourceError if the cluster does not have the resources."""
    workers = default_workers(config, found.cpus)
    if workers < config.run.min_workers:
        raise ResourceError(
            f"run.workers is 'auto', which is {workers} here, fewer than run.min_workers, "
            f"{config.run.min_workers}; lower that, or add nodes"
        )
    device = choose_device(config, workers, found)
    decided = config.with_values({"run.workers": workers, "run.device": device})
    return Resolved(workers=workers, device=device, config=decided)


def start_trainer(
    config: Config,
    data: DataSet | SharedRows,
    start: Snapshot | None,
    cluster: Cluster | None,
    stack: contextlib.ExitStack,
    stage: Callable[[str], None],
    *,
    name: str,
    updates_before: int = 0,
) -> tuple[RunSpec, Trainer]:
    """Start a trainer, which is closed with `stack`, at a state or at the first step; return it with its run's spec.

    If no cluster was joined, a local Ray is started, unless the run uses the serial loop. Rows that are in the object
    store already are used there. `stage` is called with what is being done, and `name` is what Ray shows of the run.
    """
    if config.run.workers == 0:
        on_cpu = config if config.run.device == "cpu" else config.with_values({"run.device": "cpu"})
        rows_here = data if isinstance(data, DataSet) else data.data
        spec = RunSpec.beginning(on_cpu, rows_here, start, updates_before=updates_before)
        local = LocalTrainer(spec)
        stack.callback(local.close)
        return spec, local
    from distsgd.cluster.launching import Launcher
    from distsgd.cluster.rows import SharedRows
    from distsgd.cluster.trainer import RayTrainer

    if cluster is None:
        stage("starting Ray on this machine")
    needed = data.nbytes if isinstance(data, DataSet) else 0
    found = cluster or stack.enter_context(started(config, environment(config), data_bytes=needed))
    resolved = resolve(config, found)
    if isinstance(data, DataSet):
        stage("copying the rows to Ray")
        data = SharedRows.put(data)
    rows = data
    spec = RunSpec.beginning(resolved.config, rows.data, start, updates_before=updates_before)
    grows = config.run.workers == "auto" and not found.local
    trainer = RayTrainer(
        spec,
        rows,
        workers=resolved.workers,
        device=resolved.device,
        launcher=Launcher(name, found.runtime_env),
        stage=stage,
        wanted=(lambda: default_workers(config, total_cpus())) if grows else None,
    )
    stack.callback(trainer.close)
    return spec, trainer
