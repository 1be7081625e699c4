"""The arrays that rows are read into."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from distsgd.core.names import shortened
from distsgd.core.scaling import block_rows
from distsgd.data.blocks import BlockSums, RowBlocks
from distsgd.data.columns import storage_dtype
from distsgd.data.normalization import Normalization
from distsgd.data.rows import ArrayRows
from distsgd.data.sources import Source
from distsgd.data.statistics import Statistics
from distsgd.data.targets import TargetEncoder
from distsgd.data.weights import relative
from distsgd.errors import DataError


class RowBuilder:
    """Collects the rows of a source that are marked in `chosen` (N,), in source order."""

    def __init__(
        self, source: Source, chosen: NDArray[np.bool_], encoder: TargetEncoder, dtype: np.dtype[Any] | None = None
    ) -> None:
        self._source = source
        self.chosen = chosen
        self._seen = self._filled = 0
        count = int(chosen.sum())
        self.X = np.empty((count, source.schema.num_features), dtype or storage_dtype(source.schema))
        self.y = encoder.empty(count)
        self.weights = None if source.weights is None else source.weights[chosen]
        self._own_weights, self._sums = self.weights, BlockSums(count)
        self.notices: tuple[str, ...] = ()

    def relative_weights(self, statistics: Statistics) -> NDArray[np.float64] | None:
        """Return the weights that statistics count the chosen rows by; None if each counts once."""
        return None if self.weights is None else relative(self.weights, statistics)

    def append(self, X: NDArray[Any], y: NDArray[Any], normalization: Normalization | None) -> None:
        """Append the chosen ones of the source's next rows, X (n, D) and y (n, ...)."""
        chosen = self.chosen[self._seen : self._seen + len(y)]
        self._seen += len(y)
        if not chosen.all():
            X, y = X[chosen], y[chosen]
        self._sums.add(X)
        place = slice(self._filled, self._filled + len(y))
        self._filled += len(y)
        self.y[place] = y
        if normalization is None:
            self.X[place] = X
        else:
            normalization.apply(X, out=self.X[place])

    def check_finite(self) -> None:
        """Refuse a value that became infinite when it was normalised and rounded."""
        count = block_rows(self.X.shape[1])
        for start in range(0, len(self.X), count):
            finite = np.isfinite(self.X[start : start + count])
            if not finite.all():
                row, number = np.argwhere(~finite)[0]
                place = self._source.place(int(np.flatnonzero(self.chosen)[start + row]))
                name = shortened(self._source.schema.feature_names[number])
                raise DataError(
                    f"{place}: the value in column {name!r} is too large for float32 once it is normalised; rescale "
                    "that column, or leave it out of data.features"
                )

    def blocks(self) -> RowBlocks:
        """Return the checksums of the filled rows: features before normalisation, targets, weights of their column."""
        return self._sums.blocks(self.y, self._own_weights)

    def place(self, row: int) -> str:
        """Return where a filled row is in the files."""
        return self._source.place(int(np.flatnonzero(self.chosen)[row]))

    def rows(self) -> ArrayRows:
        """Return the filled arrays, now read-only."""
        arrays = (self.X, self.y, self.weights)
        for array in arrays:
            if array is not None:
                array.flags.writeable = False
        return ArrayRows(*arrays)
