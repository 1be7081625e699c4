"""A mini-batch's buffers on a device: allocated once, filled again and again."""

from __future__ import annotations

from typing import Any

import numpy as np

from distsgd.backend import Device, array_module
from distsgd.data import BatchTransform, Rows, gather


class Batch:
    """Rows on a device, and buffers there that hold at most `count` of them, ready for the net."""

    def __init__(self, rows: Rows, transform: BatchTransform, count: int, device: Device) -> None:
        xp = self._xp = array_module(device)
        self._rows = Rows(xp.asarray(rows.X), xp.asarray(rows.y))
        self._transform = transform.on(xp)
        width = rows.X.shape[1]
        self._X, self._y = xp.empty((count, width), xp.float32), xp.empty(count, xp.int64)
        self._raw = None if rows.X.dtype == np.float32 else xp.empty((count, width), rows.X.dtype)

    def gather(self, index: np.ndarray) -> tuple[Any, Any]:
        """Return features (n, D) float32 and classes (n,) of the rows `index` (n,), valid until the next call."""
        n = len(index)
        X, y = self._X[:n], self._y[:n]
        raw = None if self._raw is None else self._raw[:n]
        gather(self._rows, self._xp.asarray(index), self._transform, xp=self._xp, X_out=X, y_out=y, raw=raw)
        return X, y
