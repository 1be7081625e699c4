"""Code shared by both PyTorch contestants: the net, the optimiser and a training step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from benchmarks.peers.common import L2, LR, Task
from benchmarks.shapes import Shape


def make_model(shape: Shape) -> nn.Sequential:
    """Return the net, without the softmax, which the cross-entropy loss includes."""
    return nn.Sequential(nn.Linear(shape.features, shape.hidden), nn.ReLU(), nn.Linear(shape.hidden, shape.classes))


def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """Return SGD with L2 on the weights only; `fused` was at least as fast as the default for every shape."""
    weights = [p for p in model.parameters() if p.ndim > 1]
    biases = [p for p in model.parameters() if p.ndim == 1]
    groups: list[dict[str, Any]] = [{"params": weights, "weight_decay": 2 * L2}, {"params": biases}]
    return torch.optim.SGD(groups, lr=LR, fused=True)


def load(task: Task) -> tuple[torch.Tensor, torch.Tensor]:
    """Return features (N, D) and classes (N,)."""
    X, y = task.load()
    return torch.from_numpy(X), torch.from_numpy(y)


def shuffled(rows: int, batch: int, share: slice) -> Iterator[torch.Tensor]:
    """Yield, epoch after epoch, the row numbers in the part `share` of each mini-batch, like DistributedSampler.

    All ranks draw the same order, seeded with the epoch, and each takes its own share of each mini-batch.
    """
    epoch = 0
    while True:
        order = torch.randperm(rows, generator=torch.Generator().manual_seed(epoch))
        for start in range(0, rows, batch):
            yield order[start : start + batch][share]
        epoch += 1


def train_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, X: torch.Tensor, y: torch.Tensor, index: torch.Tensor
) -> None:
    """Train on the rows `index`. Gathering with an index tensor is several times faster than a DataLoader."""
    rows = X.index_select(0, index)
    if rows.dtype != torch.float32:
        rows = rows.float().div_(255)
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(rows), y.index_select(0, index)).backward()
    optimizer.step()
