"""Buffers for the forward and backward pass, allocated once, so that a step allocates nothing of mini-batch size."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from distsgd.core.net import Net
from distsgd.core.portable.activations import ACTIVATIONS
from distsgd.core.portable.elementary import Elementary
from distsgd.core.portable.losses import loss_of
from distsgd.core.portable.workspace_views import PortableViews

CHUNK = 2**15
"""Numbers that several operations in turn are applied to: two arrays of so many float64 take 512 KB."""


def workspace_bytes(net: Net, count: int) -> int:
    """Return the size of the largest buffers of a workspace for `count` examples, in bytes."""
    return 8 * (count * (net.features + 3 * net.hidden + 3 * net.classes) + net.size)


NARROW_CHUNK = 2**17
"""The same of features that are rounded in float32: 128×3072 took 119 µs, all at once 107, in chunks as the others 151,
and in float64 144."""


class PortableWorkspace:
    """Buffers for at most `count` examples at a time, with the net's activation and loss.

    Scores are kept class by class, (C, n) in memory, as in core/workspace.py.
    """

    def __init__(self, net: Net, count: int, xp: ModuleType) -> None:
        self.xp = xp
        self.product = np.dot if xp is np else xp.matmul
        """The matrix product, into an array in C order."""
        self.activation = ACTIVATIONS[net.activation] if net.hidden else None
        """None without a hidden layer."""
        self.loss = loss_of(net)
        self.functions = Elementary(xp, count * max(net.hidden, net.classes))
        self.weights = net.split(xp.empty(net.size, xp.float64))
        """The parameters on their grids; biases are not rounded."""
        self._net, self._count = net, count
        self._features = xp.empty((count, net.features), xp.float64)
        features = count * net.features
        self.narrow = xp.empty(min(features, max(NARROW_CHUNK, net.features)) if xp is np else features, xp.float32)
        """Scratch for a chunk of features, float32."""
        self._hidden = xp.empty((3, count, net.hidden), xp.float64)
        self._scores = xp.empty((3, count * net.classes), xp.float64)
        self._columns = xp.empty((4, count), xp.float64)
        self._index = xp.empty((2, count), xp.int64)
        self._index[1] = xp.arange(count)
        self._ones = xp.ones(count, xp.float64)
        self._views: dict[int, PortableViews] = {}
        self._chunks: dict[tuple[int, int, int], list[slice]] = {}

    def chunks(self, n: int, width: int, size: int = CHUNK) -> list[slice]:
        """Return the parts of (n, width) that stay in a core's cache while several operations are applied to them."""
        key = (n, width, size)
        if key not in self._chunks:
            rows = max(1, size // width) if self.xp is np else n
            self._chunks[key] = [slice(start, min(start + rows, n)) for start in range(0, n, rows)]
        return self._chunks[key]

    def views(self, n: int) -> PortableViews:
        """Return views of the buffers for n examples; cached, as there are only a few sizes."""
        if n not in self._views:
            classes = self._net.classes
            flat, other, third = (self._scores[i, : n * classes] for i in range(3))
            column, losses, rounders, weights = (self._columns[i, :n] for i in range(4))
            self._views[n] = PortableViews(
                X=self._features[:n],
                h=self._hidden[0, :n],
                dh=self._hidden[1, :n],
                kept=self._hidden[2, :n],
                s=flat.reshape(classes, n).T,
                s_flat=flat,
                other=other.reshape(classes, n).T,
                other_flat=other,
                third=third.reshape(classes, n).T,
                column=column,
                losses=losses,
                rounders=rounders.reshape(n, 1),
                weights=weights,
                own=self._index[0, :n],
                position=self._index[1, :n],
                ones=self._ones[:n],
            )
        return self._views[n]
