"""Plain Ray calls: one per worker and step, arrays through Ray's object store. Works wherever Ray does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from distsgd.errors import TrainingError, WorkerLostError
from distsgd.reduction import Partial


class RayCallsLink:
    """The server's side; `workers` are handles of actors with the methods of `worker.Worker`."""

    def __init__(self, workers: Sequence[Any], *, assignment: Sequence[range], timeout_s: float) -> None:
        self._workers, self._assignment, self._timeout_s = workers, assignment, timeout_s

    def exchange(self, step: int, parameters: np.ndarray) -> list[Partial]:
        """See `links.ServerLink`."""
        shared = ray.put(parameters)
        replies = [
            worker.compute.remote(step, shared, shards)
            for worker, shards in zip(self._workers, self._assignment, strict=True)
        ]
        partials: list[Partial] = []
        for number, reply in enumerate(replies):
            try:
                partials += ray.get(reply, timeout=self._timeout_s)
            except GetTimeoutError:
                raise WorkerLostError(
                    f"worker {number} has not answered step {step + 1} for {self._timeout_s:g} s; "
                    "it hangs, or run.timeout_s is too short for a step of this size"
                ) from None
            except RayActorError as error:
                raise WorkerLostError(f"worker {number} died in step {step + 1}: {error}") from None
            except RayTaskError as error:
                raise TrainingError(f"worker {number} failed in step {step + 1}: {error.cause!r}") from error
        return partials
