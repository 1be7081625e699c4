"""Rows behind an interface, so that they need not be arrays in memory."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

import numpy as np


class Rows(Protocol):
    """Examples that can be gathered by number; they need not be arrays in memory."""

    def __len__(self) -> int:
        """Return the number of rows, N."""
        ...

    @property
    def features(self) -> int:
        """The number of features, D."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type that features are stored as: float32, already normalised, or an integer of at most two bytes."""
        ...

    @property
    def labelled(self) -> bool:
        """Whether the rows have labels; without labels they can be used only for prediction."""
        ...

    @property
    def target(self) -> tuple[np.dtype[Any], tuple[int, ...]]:
        """Type and shape of a row's target: int64 and () for a class, float32 and (C,) for C labels or numbers."""
        ...

    @property
    def weighted(self) -> bool:
        """Whether the rows have weights; without weights each counts once."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the rows take."""
        ...

    def gather(self, index: Any, X_out: Any, y_out: Any, w_out: Any = None) -> None:
        """Fill `X_out` (n, D), of the stored type, `y_out` (n, ...) and `w_out` (n,) with the rows `index` (n,) int64.

        All arrays are those of the module that `on` was asked for. Targets and weights (float32) are left out where
        `y_out` or `w_out` is None. The index is trusted to lie in [0, N). Nothing of a batch's size is allocated.
        """
        ...

    def targets(self, index: slice) -> Any:
        """Return the targets (n, ...) of some rows, which have to be `labelled`."""
        ...

    def on(self, xp: ModuleType) -> Rows:
        """Return the rows as `gather` needs them to fill arrays of `xp`."""
        ...

    def update_digest(self, sha: Hash) -> None:
        """Feed all features, then all targets, then all weights, in row order, to a hash."""
        ...


class Hash(Protocol):
    """A hash object of hashlib."""

    def update(self, data: Any, /) -> None:
        """Take in bytes."""
        ...


@dataclass(frozen=True)
class ArrayRows:
    """Rows in memory. The arrays may be NumPy's or CuPy's; what `load` gives is NumPy's and read-only."""

    X: Any
    """(N, D), C-contiguous: float32, already normalised, or an integer type of at most two bytes, as it was stored."""

    y: Any = None
    """(N,) int64: class indices in [0, C); or (N, C) float32: labels or numbers; None if the rows have no labels."""

    w: Any = None
    """(N,) float32: weights above 0; None if each row counts once."""

    def __len__(self) -> int:
        return len(self.X)

    @property
    def features(self) -> int:
        """See Rows.features."""
        return int(self.X.shape[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        """See Rows.dtype."""
        dtype: np.dtype[Any] = self.X.dtype
        return dtype

    @property
    def labelled(self) -> bool:
        """See Rows.labelled."""
        return self.y is not None

    @property
    def target(self) -> tuple[np.dtype[Any], tuple[int, ...]]:
        """See Rows.target."""
        return (np.dtype(np.int64), ()) if self.y is None else (self.y.dtype, self.y.shape[1:])

    @property
    def weighted(self) -> bool:
        """See Rows.weighted."""
        return self.w is not None

    @property
    def nbytes(self) -> int:
        """See Rows.nbytes."""
        return sum(int(array.nbytes) for array in (self.X, self.y, self.w) if array is not None)

    def gather(self, index: Any, X_out: Any, y_out: Any, w_out: Any = None) -> None:
        """See Rows.gather."""
        # "clip" lets NumPy write to `out` directly, where its default gathers into a buffer and copies that; CuPy has
        # no such modes.
        mode = ("clip",) if isinstance(self.X, np.ndarray) else ()
        self.X.take(index, 0, X_out, *mode)
        if y_out is not None:
            self.y.take(index, 0, y_out, *mode)
        if w_out is not None:
            self.w.take(index, 0, w_out, *mode)

    def targets(self, index: slice) -> Any:
        """See Rows.targets."""
        return self.y[index]

    def on(self, xp: ModuleType) -> ArrayRows:
        """See Rows.on."""
        return ArrayRows(*(None if array is None else xp.asarray(array) for array in (self.X, self.y, self.w)))

    def update_digest(self, sha: Hash) -> None:
        """See Rows.update_digest."""
        for array in (self.X, self.y, self.w):
            if array is not None:
                sha.update(memoryview(array).cast("B"))
