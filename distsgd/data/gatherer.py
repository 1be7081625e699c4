"""Mini-batch buffers on a device: allocated once, filled again and again."""

from __future__ import annotations

from typing import Any

import numpy as np

from distsgd.core.backend import Device, array_module
from distsgd.data import BatchTransform, Rows, gather


class Gatherer:
    """Rows on a device, and buffers there that hold at most `count` of them each, ready for the net."""

    def __init__(self, rows: Rows, transform: BatchTransform, count: int, device: Device) -> None:
        xp = self._xp = array_module(device)
        self._rows = Rows(xp.asarray(rows.X), xp.asarray(rows.y))
        self._transform = transform.on(xp)
        self._shape = (count, rows.X.shape[1])
        self._raw = None if rows.X.dtype == np.float32 else xp.empty(self._shape, rows.X.dtype)
        self._buffers: list[tuple[Any, Any]] = []
        self._cuts: dict[tuple[int, int], tuple[Any, Any, Any]] = {}

    @property
    def buffer_bytes(self) -> int:
        """Bytes of one buffer."""
        count, width = self._shape
        return int(count * (4 * width + 8))

    def gather(self, index: np.ndarray, buffer: int = 0) -> tuple[Any, Any]:
        """Return features (n, D) float32 and classes (n,) of the rows `index` (n,), in the buffer of that number.

        They are valid until the buffer is used again; buffers are made when they are first used.
        """
        key = (len(index), buffer)  # there are only a few sizes, so the cuts are kept
        X, y, raw = self._cuts.get(key) or self._cut(*key)
        gather(self._rows, self._xp.asarray(index), self._transform, xp=self._xp, X_out=X, y_out=y, raw=raw)
        return X, y

    def _cut(self, n: int, buffer: int) -> tuple[Any, Any, Any]:
        """Return, and keep, the arrays that n rows are gathered in."""
        xp = self._xp
        while len(self._buffers) <= buffer:
            self._buffers.append((xp.empty(self._shape, xp.float32), xp.empty(self._shape[0], xp.int64)))
        X, y = self._buffers[buffer]
        cut = self._cuts[n, buffer] = (X[:n], y[:n], None if self._raw is None else self._raw[:n])
        return cut
