"""What every worker process of a run is initialized with."""

from __future__ import annotations

from dataclasses import dataclass

from distsgd.core.backend import Device
from distsgd.core.net import Net
from distsgd.core.sampling import Sampler
from distsgd.data import BatchTransform
from distsgd.data.bounds import RunBounds
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
    bounds: RunBounds | None = None
    """See Plan.bounds."""

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
            bounds=spec.plan.bounds,
        )
