"""What every worker process of a run is initialized with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ray

from distsgd.core.backend import Device
from distsgd.core.net import Net
from distsgd.core.sampling import Sampler
from distsgd.data import BatchTransform, DataSet
from distsgd.engine.spec import RunSpec


@dataclass(frozen=True, kw_only=True)
class WorkerSpec:
    """The net, the rows of each step, and the arithmetic: the same for all workers of a run."""

    net: Net
    sampler: Sampler
    transform: BatchTransform
    device: Device
    blas_threads: int
    blas_kernel: str | None

    @classmethod
    def of(cls, spec: RunSpec, device: Device) -> WorkerSpec:
        """Return the spec of a run's workers."""
        return cls(
            net=spec.net,
            sampler=spec.plan.sampler,
            transform=spec.data.transform,
            device=device,
            blas_threads=spec.config.run.blas_threads,
            blas_kernel=spec.config.run.blas_kernel,
        )


@dataclass(frozen=True)
class SharedRows:
    """The rows of a run in Ray's object store, of which each node has one copy that its processes read in place."""

    train: Any  # the object references of `Rows`
    val: Any  # None without held-out rows

    @classmethod
    def of(cls, data: DataSet) -> SharedRows:
        """Put rows into the object store."""
        return cls(ray.put(data.train), None if data.val is None else ray.put(data.val))
