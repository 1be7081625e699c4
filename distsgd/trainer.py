"""Training on Ray: places the actors, runs them, watches them. The only file that starts Ray actors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from distsgd import numerics, reduction, validation
from distsgd.backend import Device
from distsgd.config import Config
from distsgd.data import DataSet
from distsgd.errors import DistsgdError, ResourceError, TrainingError, WorkerLostError
from distsgd.links.ray_calls import RayCallsLink
from distsgd.model import Net
from distsgd.server import ParameterServer
from distsgd.state import Plan, Snapshot
from distsgd.worker import Worker

TICK_S = 0.2
"""Seconds between two looks at a training server."""


class ServerActor(ParameterServer):
    """The parameter server as a Ray actor; it answers other calls while `run` trains."""

    def __init__(self, *, blas_threads: int, **keywords: Any) -> None:
        self._blas = numerics.pinned_blas(blas_threads, None)
        self._blas.__enter__()
        super().__init__(**keywords)

    def ready(self) -> None:
        """Return once the actor lives."""


class WorkerActor:
    """A worker as a Ray actor; `setup` rather than the constructor does the work, so that its errors come back."""

    def setup(self, *, blas_threads: int, blas_kernel: str | None, device: Device, **keywords: Any) -> dict[str, str]:
        """Make the worker and return the fingerprint of its arithmetic."""
        self._blas = numerics.pinned_blas(blas_threads, blas_kernel)
        self._blas.__enter__()
        self._worker = Worker(device=device, **keywords)
        return numerics.fingerprint(device)

    def compute(self, step: int, flat: np.ndarray, shards: range) -> list[reduction.Partial]:
        """See Worker.compute."""
        return self._worker.compute(step, flat, shards)

    def evaluate(self, flat: np.ndarray, blocks: range) -> list[tuple[float, int]]:
        """See Worker.evaluate."""
        return self._worker.evaluate(flat, blocks)


class RayTrainer:
    """A parameter server and workers on the Ray that this process is connected to."""

    def __init__(
        self, *, config: Config, workers: int, device: Device, data: DataSet, net: Net, plan: Plan, start: Snapshot
    ) -> None:
        self._config = config
        self._actors: list[Any] = []
        self.warnings: list[str] = []
        # From here on this process, too, reads the node's one copy of the rows.
        rows = [None if part is None else ray.put(part) for part in (data.train, data.val)]
        self.data = dataclasses.replace(data, train=ray.get(rows[0]), val=None if rows[1] is None else ray.get(rows[1]))
        try:
            self._server = self._start_server(net=net, plan=plan, start=start)
            self._workers = self._start_workers(
                workers, device, net=net, sampler=plan.sampler, train=rows[0], val=rows[1], transform=data.transform
            )
        except BaseException:
            self.close()
            raise
        assignment = reduction.assign(workers, config.train.num_shards)
        self._link = RayCallsLink(self._workers, assignment=assignment, timeout_s=config.run.timeout_s)

    def _start_server(self, **keywords: Any) -> Any:
        run = self._config.run
        server = (
            ray.remote(ServerActor)
            .options(num_cpus=0, max_concurrency=4, runtime_env=self._runtime_env())
            .remote(blas_threads=run.blas_threads, config=self._config, **keywords)
        )
        self._actors.append(server)
        self._get(server.ready.remote(), "the parameter server")
        return server

    def _start_workers(self, workers: int, device: Device, **keywords: Any) -> list[Any]:
        """Start the workers and wait until all of them are set up; a difference in arithmetic becomes a warning."""
        run = self._config.run
        remote = ray.remote(WorkerActor).options(
            num_cpus=run.blas_threads,
            num_gpus=run.gpus_per_worker if device == "cuda" else 0,
            runtime_env=self._runtime_env(),
        )
        actors = [remote.remote() for _ in range(workers)]
        self._actors += actors
        replies = [
            actor.setup.remote(
                blas_threads=run.blas_threads, blas_kernel=run.blas_kernel, device=device, **keywords
            )
            for actor in actors
        ]
        fingerprints = [self._get(reply, f"worker {number}") for number, reply in enumerate(replies)]
        self.numerics: dict[str, str] = fingerprints[0]
        for number, found in enumerate(fingerprints):
            if found != self.numerics:
                self.warnings.append(
                    f"worker {number} computes with {found}, worker 0 with {self.numerics}: the last bits depend on "
                    "which of them computes what; run.blas_kernel holds all to one kernel"
                )
        return actors

    def _runtime_env(self) -> dict[str, Any]:
        return {"env_vars": numerics.environment(self._config.run.blas_threads, self._config.run.blas_kernel)}

    def _get(self, reply: Any, who: str, timeout_s: float | None = None) -> Any:
        """Return what an actor answers; its errors come as they were raised there."""
        limit = timeout_s or self._config.run.timeout_s
        try:
            return ray.get(reply, timeout=limit)
        except RayTaskError as error:
            if isinstance(error.cause, DistsgdError):
                raise error.cause from None
            raise TrainingError(f"{who} failed: {error.cause!r}") from error
        except RayActorError as error:
            raise WorkerLostError(f"{who} died: {error}") from None
        except GetTimeoutError:
            raise ResourceError(
                f"{who} has not answered for {limit:g} s: the cluster's CPUs or GPUs may be taken by other jobs"
            ) from None

    def run(self, until: int, tick: Callable[[], None]) -> int:
        """Train up to step `until` or until `stop`; call `tick` several times a second. Return the steps done."""
        reply = self._server.run.remote(self._link, until)
        while not ray.wait([reply], timeout=TICK_S)[0]:
            tick()
        steps: int = self._get(reply, "the parameter server")
        return steps

    def stop(self) -> None:
        """Make `run` return after the step at hand."""
        self._server.stop.remote()

    def take_records(self) -> list[dict[str, Any]]:
        """See ParameterServer.take_records."""
        records: list[dict[str, Any]] = self._get(self._server.take_records.remote(), "the parameter server")
        return records

    def snapshot(self) -> Snapshot:
        """See ParameterServer.snapshot."""
        snapshot: Snapshot = self._get(self._server.snapshot.remote(), "the parameter server")
        return snapshot

    def timings(self) -> dict[str, float]:
        """See ParameterServer.timings."""
        timings: dict[str, float] = self._get(self._server.timings.remote(), "the parameter server")
        return timings

    def evaluate(self) -> dict[str, float]:
        """Return loss and accuracy over the held-out rows, each worker taking a share of their blocks."""
        if self.data.val is None:
            return {}
        rows = len(self.data.val.y)
        flat = self._server.current_parameters.remote()
        shares = reduction.assign(len(self._workers), validation.block_count(rows))
        replies = [
            worker.evaluate.remote(flat, share) for worker, share in zip(self._workers, shares, strict=True)
        ]
        blocks = [block for number, reply in enumerate(replies) for block in self._get(reply, f"worker {number}")]
        return validation.metrics(blocks, rows)

    def close(self) -> None:
        """End the actors."""
        for actor in self._actors:
            ray.kill(actor)
        self._actors.clear()
