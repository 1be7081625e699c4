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
from distsgd.errors import DistsgdError, ResourceError, TrainingError, WorkerLostError
from distsgd.links.ray_calls import RayCallsLink
from distsgd.server import ParameterServer
from distsgd.setup import Setup
from distsgd.state import Snapshot
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

    def __init__(self, setup: Setup, *, workers: int, device: Device, runtime_env: dict[str, Any]) -> None:
        self._config, self._runtime_env = setup.config, runtime_env
        self._actors: list[Any] = []
        self.warnings: list[str] = []
        data, sampler = setup.data, setup.plan.sampler
        # From here on this process, too, reads the node's one copy of the rows.
        train, val = ray.put(data.train), None if data.val is None else ray.put(data.val)
        self.data = dataclasses.replace(data, train=ray.get(train), val=None if val is None else ray.get(val))
        try:
            self._server = self._start_server(net=setup.net, plan=setup.plan, start=setup.start)
            self._workers = self._start_workers(workers, device)
            self._set_up(device, net=setup.net, sampler=sampler, train=train, val=val, transform=data.transform)
        except BaseException:
            self.close()
            raise
        assignment = reduction.assign(workers, sampler.num_shards)
        self._link = RayCallsLink(self._workers, assignment=assignment, timeout_s=setup.config.run.timeout_s)

    def _start_server(self, **keywords: Any) -> Any:
        remote = ray.remote(ServerActor).options(num_cpus=0, max_concurrency=4, runtime_env=self._runtime_env)
        server = remote.remote(blas_threads=self._config.run.blas_threads, config=self._config, **keywords)
        self._actors.append(server)
        return server

    def _start_workers(self, workers: int, device: Device) -> list[Any]:
        run = self._config.run
        gpus = run.gpus_per_worker if device == "cuda" else 0
        remote = ray.remote(WorkerActor).options(
            num_cpus=run.blas_threads, num_gpus=gpus, runtime_env=self._runtime_env
        )
        actors = [remote.remote() for _ in range(workers)]
        self._actors += actors
        return actors

    def _set_up(self, device: Device, **keywords: Any) -> None:
        """Wait until all actors are ready; a difference in arithmetic between workers becomes a warning."""
        run = self._config.run
        arguments = {"blas_threads": run.blas_threads, "blas_kernel": run.blas_kernel, "device": device, **keywords}
        replies = [worker.setup.remote(**arguments) for worker in self._workers]
        self._get(self._server.ready.remote(), "the parameter server")
        fingerprints = [self._get(reply, f"worker {number}") for number, reply in enumerate(replies)]
        self.numerics: dict[str, str] = fingerprints[0]
        for number, found in enumerate(fingerprints):
            if found != self.numerics:
                self.warnings.append(
                    f"worker {number} computes with {found}, worker 0 with {self.numerics}: the last bits depend on "
                    "which of them computes what; run.blas_kernel holds all to one kernel"
                )

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
        replies = [worker.evaluate.remote(flat, share) for worker, share in zip(self._workers, shares, strict=True)]
        blocks = [block for number, reply in enumerate(replies) for block in self._get(reply, f"worker {number}")]
        return validation.metrics(blocks, rows)

    def close(self) -> None:
        """End the actors."""
        for actor in self._actors:
            ray.kill(actor)
        self._actors.clear()
