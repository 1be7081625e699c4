"""Normalisation: computing its statistics, and applying it to whole data sets and to batches."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distsgd.core.names import shortened
from distsgd.core.scaling import block_rows, scaled
from distsgd.errors import DataError

SMALLEST_SQUARES = 2.0**-970
"""Sums of squared deviations below this have lost bits to underflow, or all of them (columns of about 1e-150)."""


@dataclass(frozen=True)
class Normalization:
    """`(X - shift) * scale`, feature by feature."""

    shift: NDArray[np.float64]
    """(D,), in the units of the feature."""

    scale: NDArray[np.float64]
    """(D,), one over the units of the feature."""

    def apply(self, X: NDArray[Any], out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Return `X` (N, D), of any numeric type, normalised in float64 and rounded to float32 once.

        `out` (N, D) may be X itself. What float32 cannot hold becomes infinite. DataError if X is not (N, D).
        """
        width = len(self.shift)
        if X.ndim != 2 or X.shape[1] != width:
            raise DataError(f"found features of shape {X.shape}, expected (rows, {width})")
        if out is None:
            out = np.empty(X.shape, np.float32)
        return scaled(X, self.shift, self.scale, out)

    def beside(self, other: Normalization) -> Normalization:
        """Return both normalisations in one, of which each leaves the other's features as they are."""
        return Normalization(self.shift + other.shift, self.scale * other.scale)

    def rounded(self) -> Normalization:
        """Return the normalisation whose numbers float32 holds exactly, so that batches and `apply` use the same."""
        return Normalization(*(v.astype(np.float32).astype(np.float64) for v in (self.shift, self.scale)))

    def batch_transform(self) -> BatchTransform:
        """Return what a batch of rows stored as they were needs; the numbers have to be `rounded`."""
        shift = self.shift.astype(np.float32) if self.shift.any() else None
        scale = self.scale.astype(np.float32)
        if (scale == scale[0]).all():
            scale = scale[:1]
        return BatchTransform(shift, None if len(scale) == 1 and scale[0] == 1 else scale)


@dataclass(frozen=True)
class BatchTransform:
    """The normalisation to apply to a gathered batch: `(X - shift) * scale` in float32; None leaves a step out.

    The arrays may be NumPy's or CuPy's.
    """

    shift: Any = None
    """(D,) float32."""

    scale: Any = None
    """(D,) float32, or (1,) for a factor that all features share."""

    def on(self, xp: ModuleType) -> BatchTransform:
        """Return the transform with its arrays on `xp`'s device."""
        return BatchTransform(*(None if v is None else xp.asarray(v) for v in (self.shift, self.scale)))


class Moments:
    """Mean and variance of the columns of a stream of rows.

    Rows are taken in blocks of a size that depends on the width alone, so that the result has the same bits however
    the stream is cut. Within a block the mean is subtracted first; blocks are merged by the formula of Chan, Golub
    and LeVeque ("Updating formulae and a pairwise algorithm for computing sample variances", 1979). All rows are
    taken relative to the first one, which makes a constant column's variance exactly 0.
    """

    def __init__(self, width: int, total: int | None = None, *, weighted: bool = False) -> None:
        """Take rows of `width` columns, weighted or not, in the blocks of `total` columns of which these are some."""
        self._alone = width == 1 and (total or width) > 1
        width += self._alone  # NumPy would sum one column in another order than several
        self._buffer = np.zeros((block_rows(total or width), width))
        self._filled = 0
        self._weights = np.empty(len(self._buffer)) if weighted else None
        self._count = 0.0  # the weight of what was merged; without weights the number of rows
        self._origin = np.zeros(width)
        self._mean = np.zeros(width)
        self._squares = np.zeros(width)
        self._varies = np.zeros(width, bool)

    def add(self, rows: NDArray[Any], weights: NDArray[np.float64] | None = None) -> None:
        """Add rows (n, D) of any numeric type, each of which counts as its weight (n,) says, if they are weighted."""
        if self._alone:
            rows = np.column_stack((rows, np.zeros(len(rows))))
        if self._count == self._filled == 0 and len(rows):
            self._origin[:] = rows[0]
        start = 0
        while start < len(rows):
            count = min(len(self._buffer) - self._filled, len(rows) - start)
            self._buffer[self._filled : self._filled + count] = rows[start : start + count]
            if self._weights is not None and weights is not None:
                self._weights[self._filled : self._filled + count] = weights[start : start + count]
            self._filled += count
            start += count
            if self._filled == len(self._buffer):
                self._merge()

    def _merge(self) -> None:
        """Merge the block that has been filled into the totals."""
        block, added, w = self._buffer[: self._filled], float(self._filled), None
        if self._weights is not None:
            w = self._weights[: self._filled, None]
            added = self._total(w)
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            block -= self._origin
            mean = self._column_sums(block if w is None else block * w) / added
            block -= mean
            step = mean - self._mean
            tiny = np.flatnonzero(self._squares < SMALLEST_SQUARES)  # after the first block, constant columns alone
            self._varies[tiny] |= (block[:, tiny] != 0).any(axis=0) | (step[tiny] != 0)
            np.square(block, out=block)
            if w is not None:
                block *= w
            total = self._count + added
            self._squares += self._column_sums(block) + step * step * (self._count * added / total)
            self._mean += step * (added / total)
        self._count, self._filled = total, 0

    def _column_sums(self, block: NDArray[Any]) -> Any:
        """Return the sums (D,) of a block's columns."""
        return block.sum(axis=0)

    def _total(self, weights: NDArray[Any]) -> float:
        """Return the sum of a block's weights (n, 1)."""
        return float(weights.sum())

    def normalization(self, names: tuple[str, ...]) -> Normalization:
        """Return zero mean and unit (population) variance for what was added; constant columns become 0.

        DataError if a column's values lie so far apart, or differ by so little, that float64 cannot hold their
        squared deviations.
        """
        if self._filled:
            self._merge()
        squares, varies = self._squares[: len(names)], self._varies[: len(names)]
        std = np.sqrt(squares / self._count)
        small = varies & (squares < SMALLEST_SQUARES)
        for bad, problem in ((~np.isfinite(std), "far apart"), (small, "close together")):
            if bad.any():
                raise DataError(
                    f"the values of feature {shortened(names[np.flatnonzero(bad)[0]])!r} lie too {problem} for a "
                    "standard deviation in float64; rescale that column, or leave it out of data.features"
                )
        scale = 1.0 / np.where(std == 0, 1.0, std)
        return Normalization((self._origin + self._mean)[: len(names)], scale)
