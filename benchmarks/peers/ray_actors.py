"""A parameter server with plain Ray actors and NumPy, after the synchronous example in Ray's documentation.

As there, the driver passes object references on and does not wait for each step: it fetches the parameters every ten.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import tempfile
from typing import Any

import numpy as np
import ray

from benchmarks.peers.common import L2, LR, StepClock, Task, main, share_of, shuffled
from benchmarks.peers.plain_numpy import Parameters, gather, initial_parameters, loss_and_gradients

STEPS_BETWEEN_LOOKS = 10


@ray.remote(num_cpus=0)
class ParameterServer:
    """Owns the parameters."""

    def __init__(self, task: Task) -> None:
        self.parameters = initial_parameters(task.shape)

    def get_parameters(self) -> Parameters:
        """Return the parameters."""
        return self.parameters

    def apply_gradients(self, *gradients: Parameters) -> Parameters:
        """Average the workers' mean gradients, each over the same number of rows, update and return the parameters."""
        updated = []
        for W, *parts in zip(self.parameters, *gradients, strict=True):
            g = np.add.reduce(parts) / len(parts)
            if W.ndim > 1:
                g += 2 * L2 * W
            updated.append(W - LR * g)
        W1, b1, W2, b2 = updated
        self.parameters = W1, b1, W2, b2
        return self.parameters


@ray.remote(num_cpus=1)
class Worker:
    """Computes the gradients of its share of every mini-batch."""

    def __init__(self, task: Task, rank: int) -> None:
        self.X, self.y = task.load()
        share = share_of(rank, task.workers, task.shape.batch)
        self.batches = shuffled(len(self.X), task.shape.batch, 0, share)

    def compute_gradients(self, parameters: Parameters) -> Parameters:
        """Return the mean gradients over the next rows."""
        return loss_and_gradients(parameters, *gather(self.X, self.y, next(self.batches)))[1]


def train(task: Task) -> StepClock:
    """Train until the time is over."""
    server = ParameterServer.remote(task)
    workers = [Worker.remote(task, rank) for rank in range(task.workers)]
    parameters = server.get_parameters.remote()
    ray.get([worker.compute_gradients.remote(parameters) for worker in workers])  # until all rows are loaded
    clock = StepClock(task)
    while True:
        for _ in range(STEPS_BETWEEN_LOOKS):
            gradients = [worker.compute_gradients.remote(parameters) for worker in workers]
            parameters = server.apply_gradients.remote(*gradients)
        ray.get(parameters)
        if not clock.step(STEPS_BETWEEN_LOOKS):
            return clock


def measure(task: Task) -> dict[str, Any]:
    """Return the summary of the mean steps between two fetches, on the cluster of RAY_ADDRESS if that is set."""
    if "RAY_ADDRESS" in os.environ:
        ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False, logging_level=logging.ERROR)
        try:
            return train(task).summary()
        finally:
            ray.shutdown()
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # otherwise Ray writes one to the home directory
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    folder = tempfile.mkdtemp(prefix="bench-", dir="/tmp")  # the path of a Unix socket must be short
    try:
        ray.init(
            address="local",
            num_cpus=max(task.workers, task.threads),
            object_store_memory=2**30,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=folder,
        )
        return train(task).summary()
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(measure)
