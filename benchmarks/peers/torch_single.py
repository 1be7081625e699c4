"""PyTorch in one process, with threads on all cores."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.peers.common import StepClock, Task, main
from benchmarks.peers.torch_net import load, make_model, make_optimizer, shuffled, train_step


def measure(task: Task) -> dict[str, Any]:
    """Return the summary of the steps."""
    torch.set_num_threads(task.threads)
    torch.manual_seed(0)
    X, y = load(task)
    model = make_model(task.shape)
    optimizer = make_optimizer(model)
    batches = shuffled(len(X), task.shape.batch, slice(None))
    clock = StepClock(task)
    while True:
        train_step(model, optimizer, X, y, next(batches))
        if not clock.step():
            return clock.summary()


if __name__ == "__main__":
    main(measure)
