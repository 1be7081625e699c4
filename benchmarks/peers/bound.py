"""The bound: each process computes its part of every mini-batch's gradient, and nobody tells anybody about it.

No parameters are sent, no gradients added, no update made. What a distributed step takes longer than this is the price
of distribution (or, where it takes less, what better arithmetic saves).
"""

from __future__ import annotations

import multiprocessing
from multiprocessing.synchronize import Barrier
from typing import Any

from benchmarks.peers.common import StepClock, Task, main, share_of, shuffled, summary
from benchmarks.peers.plain_numpy import gather, initial_parameters, loss_and_gradients

START_S = 60


def compute(task: Task, rank: int, barrier: Barrier, results: Any) -> None:
    """Time the arithmetic of one process, beginning when all are ready."""
    X, y = task.load()
    parameters = initial_parameters(task.shape)
    share = share_of(rank, task.workers, task.shape.batch)
    batches = shuffled(len(X), task.shape.batch, 0, share)
    barrier.wait(START_S)
    clock = StepClock(task)
    while True:
        loss_and_gradients(parameters, *gather(X, y, next(batches)))
        if not clock.step():
            break
    results.put(clock.durations)


def measure(task: Task) -> dict[str, Any]:
    """Return the summary of all processes' steps together."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(task.workers), context.SimpleQueue()
    processes = [context.Process(target=compute, args=(task, rank, barrier, results)) for rank in range(task.workers)]
    for process in processes:
        process.start()
    durations = [duration for _ in processes for duration in results.get()]
    for process in processes:
        process.join()
    return summary(durations)


if __name__ == "__main__":
    main(measure)
