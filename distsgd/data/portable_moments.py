"""Mean and variance of columns with the same bits on every machine."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from distsgd.core.portable.bounds import halved
from distsgd.data.normalization import Moments


class PortableMoments(Moments):
    """Moments whose sums over a block of rows are added in halves, an order that the number of rows determines."""

    def _column_sums(self, block: NDArray[Any]) -> Any:
        return halved(block)

    def _total(self, weights: NDArray[Any]) -> float:
        return float(halved(weights)[0])
