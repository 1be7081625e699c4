"""Buffers for the forward and backward pass, allocated once, so that a step allocates nothing of mini-batch size.

This file is copied into every model that is logged to MLflow, so it needs NumPy alone.
"""

from __future__ import annotations

from types import ModuleType

import numpy as np

from .activations import ACTIVATIONS
from .losses import loss_of
from .net import Net
from .views import Views

HIDDEN_ARRAYS = 3
"""Arrays (n, H): activations, their gradient, and what the backward pass needs of the forward pass."""


def hidden_bytes(net: Net, count: int) -> int:
    """Return the size of the largest buffers of a workspace for `count` examples, in bytes."""
    return 4 * HIDDEN_ARRAYS * count * net.hidden


class Workspace:
    """Buffers for at most `count` examples at a time, with the net's activation and loss.

    Scores are kept class by class, (C, n) in memory: reductions over the classes then run along whole rows, which
    NumPy does three times faster than along ten neighbours, and the matrix products are as fast.
    """

    def __init__(self, net: Net, count: int, xp: ModuleType) -> None:
        self.xp = xp
        self.product = np.dot if xp is np else xp.matmul
        """The matrix product, into an array in C order. NumPy's both call BLAS alike, `dot` 0.3 µs sooner."""
        self.activation = ACTIVATIONS[net.activation] if net.hidden else None
        """None without a hidden layer."""
        self.loss = loss_of(net)
        self._net, self._count = net, count
        self._hidden = xp.empty((HIDDEN_ARRAYS, count, net.hidden), xp.float32)
        self._scores = xp.empty((2, count * net.classes), xp.float32)
        self._index = xp.empty((2, count), xp.int64)
        self._index[1] = xp.arange(count)
        self._column = xp.empty((2, count), xp.float32)
        self._ones = xp.ones(count, xp.float32)
        self._views: dict[int, Views] = {}

    def views(self, n: int) -> Views:
        """Return views of the buffers for n examples; cached, as there are only a few sizes."""
        if n not in self._views:
            flat, other = self._scores[:, : n * self._net.classes]
            self._views[n] = Views(
                h=self._hidden[0, :n],
                dh=self._hidden[1, :n],
                kept=self._hidden[2, :n],
                s=flat.reshape(self._net.classes, n).T,
                s_flat=flat,
                other=other.reshape(self._net.classes, n).T,
                column=self._column[0, :n],
                losses=self._column[1, :n],
                own=self._index[0, :n],
                position=self._index[1, :n],
                ones=self._ones[:n],
            )
        return self._views[n]
