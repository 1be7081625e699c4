"""What computes gradients and held-out metrics: chosen once, by `train.arithmetic`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from distsgd.core.backend import Device
from distsgd.core.net import Net
from distsgd.core.reduction import PartialSum, Summation
from distsgd.core.sampling import Sampler
from distsgd.data import BatchTransform, Rows
from distsgd.data.bounds import RunBounds
from distsgd.engine.portable_validation import PortableValidation
from distsgd.engine.portable_worker import PortableWorker
from distsgd.engine.validation import NO_EXTRAS, BlockResult, Extras, Validation
from distsgd.engine.worker import Worker


class Computing(Protocol):
    """A worker: see engine.worker.Worker, which describes the methods."""

    net: Net
    sampler: Sampler
    busy_s: float

    @property
    def summation(self) -> Summation:
        """How its gradients are added."""
        ...

    def compute(  # noqa: D102
        self, step: int, flat: np.ndarray, shards: range, out: Sequence[np.ndarray] | None = None
    ) -> list[PartialSum]: ...
    def prefetch(self, step: int, shards: range, *, update_here: bool) -> None: ...  # noqa: D102
    def evaluate(  # noqa: D102
        self, flat: np.ndarray, blocks: range, extras: Extras = NO_EXTRAS
    ) -> list[BlockResult]: ...


def worker_for(net: Net, bounds: RunBounds | None, **values: Any) -> Computing:
    """Return the worker of a net's arithmetic; for `values` see Worker. Exact sums need the `bounds` of the rows."""
    if bounds is None:
        return Worker(net=net, **values)
    return PortableWorker(net=net, bounds=bounds, **values)


def validation_for(
    net: Net, bounds: RunBounds | None, rows: Rows, transform: BatchTransform, device: Device
) -> Validation:
    """Return the validation of a net's arithmetic; see `worker_for`."""
    if bounds is None:
        return Validation(net, rows, transform, device)
    assert bounds.val is not None, "the held-out rows have bounds"
    return PortableValidation(net, rows, transform, device, bounds.val)
