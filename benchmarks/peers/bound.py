"""The bound: each process computes its part of every mini-batch's gradient, without any communication.

No parameters are sent, no gradients are added, and there is no update. The extra time of a distributed step is the
overhead of distribution (or, if it is shorter, what better arithmetic saves).
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.synchronize import Barrier
from typing import Any

from benchmarks.peers.common import StepClock, Task, main, share_of, shuffled, summary
from benchmarks.peers.plain_numpy import gather, initial_parameters, loss_and_gradients

START_S = 60.0


def compute(task: Task, rank: int) -> list[float]:
    """Return the step durations of one process; the steps start when all processes are ready."""
    X, y = task.load()
    parameters = initial_parameters(task.shape)
    batches = shuffled(len(X), task.shape.batch, 0, share_of(rank, task.workers, task.shape.batch))
    _all_ready.wait(START_S)
    clock = StepClock(task)
    while True:
        loss_and_gradients(parameters, *gather(X, y, next(batches)))
        if not clock.step():
            return clock.durations


def _remember(barrier: Barrier) -> None:
    """Store the barrier, which can only be passed to a process when it is created."""
    global _all_ready
    _all_ready = barrier


def measure(task: Task) -> dict[str, Any]:
    """Return the summary of the steps of all processes."""
    context = multiprocessing.get_context("spawn")
    barrier = (context.Barrier(task.workers),)
    with ProcessPoolExecutor(task.workers, mp_context=context, initializer=_remember, initargs=barrier) as pool:
        running = [pool.submit(compute, task, rank) for rank in range(task.workers)]
        return summary([duration for process in running for duration in process.result()])


if __name__ == "__main__":
    main(measure)
