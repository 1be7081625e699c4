"""PyTorch's DistributedDataParallel over gloo, with one process and one thread per worker."""

from __future__ import annotations

import datetime
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from benchmarks.peers.common import StepClock, Task, main, share_of
from benchmarks.peers.torch_net import load, make_model, make_optimizer, shuffled, train_step

STEPS_BETWEEN_VOTES = 10
"""Steps between agreements of the ranks to continue: no rank may stop while another waits for its gradient."""


def train(rank: int, task: Task, meeting_point: str) -> dict[str, Any]:
    """Train as one rank and return its step times, which are the same for all ranks."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    timeout = datetime.timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=meeting_point, rank=rank, world_size=task.workers, timeout=timeout)
    X, y = load(task)
    model = DistributedDataParallel(make_model(task.shape), gradient_as_bucket_view=True, static_graph=True)
    optimizer = make_optimizer(model)
    batches = shuffled(len(X), task.shape.batch, share_of(rank, task.workers, task.shape.batch))
    votes = torch.full((1,), float(task.workers))
    dist.barrier()
    clock = StepClock(task)
    while votes.item() == task.workers:
        for _ in range(STEPS_BETWEEN_VOTES):
            train_step(model, optimizer, X, y, next(batches))
            more = clock.step()
        votes.fill_(more)
        dist.all_reduce(votes)
        clock.restart()
    dist.destroy_process_group()
    return clock.summary()


def report(rank: int, task: Task, folder: str, results: Any) -> None:
    """Train as one rank of several on this machine; rank 0 reports."""
    found = train(rank, task, f"file://{folder}/meeting-point")
    if rank == 0:
        results.put(found)


def measure(task: Task) -> dict[str, Any]:
    """Return rank 0's summary; with RANK in the environment, this process is one rank, started as torchrun does."""
    if "RANK" in os.environ:
        return train(int(os.environ["RANK"]), task, "env://")
    results = mp.get_context("spawn").SimpleQueue()
    with tempfile.TemporaryDirectory(dir=Path(task.data)) as folder:
        context = mp.spawn(report, args=(task, folder, results), nprocs=task.workers, join=False)
        while not context.join():  # re-raises a rank's exception
            pass
    summary: dict[str, Any] = results.get()
    return summary


if __name__ == "__main__":
    main(measure)
