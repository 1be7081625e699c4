"""The bound: each process computes its part of every mini-batch's gradient, and nobody tells anybody about it.

No parameters are sent, no gradients added, no update made. What a distributed step takes longer than this is the price
of distribution (or, where it takes less, what better arithmetic saves).
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
    """Return the durations of one process's steps, which begin when all processes are ready."""
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
    """Keep what a process can only be given at its birth."""
    global _all_ready
    _all_ready = barrier


def measure(task: Task) -> dict[str, Any]:
    """Return the summary of all processes' steps together."""
    context = multiprocessing.get_context("spawn")
    barrier = (context.Barrier(task.workers),)
    with ProcessPoolExecutor(task.workers, mp_context=context, initializer=_remember, initargs=barrier) as pool:
        running = [pool.submit(compute, task, rank) for rank in range(task.workers)]
        return summary([duration for process in running for duration in process.result()])


if __name__ == "__main__":
    main(measure)
