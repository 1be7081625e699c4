"""What loading gives: rows in memory, and what is needed to train on them and to predict later."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from distsgd.data.normalization import BatchTransform, Normalization


@dataclass(frozen=True)
class Rows:
    """Examples in memory. The arrays may be NumPy's or CuPy's; what `load` gives is NumPy's and read-only."""

    X: Any
    """(N, D), C-contiguous: float32, already normalised, or an integer type of at most two bytes, as it was stored."""

    y: Any
    """(N,) int64: class indices in [0, C)."""

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class InputSchema:
    """The columns that rows were read from, as a signature has to describe them."""

    columns: tuple[str, ...]
    """Names of the feature columns, in order; one name if the features are a list column."""

    types: tuple[str, ...]
    """NumPy type of each feature column's values, such as `uint8`, `float32` or `bool`."""

    width: int | None
    """Length D of the lists in the one list column; None if every feature is a column of numbers of its own."""

    label: str
    """Name of the label column."""

    label_kind: Literal["integer", "string"]
    """What the labels are; booleans count as the integers 0 and 1."""

    @property
    def num_features(self) -> int:
        """The number of features, D."""
        return len(self.columns) if self.width is None else self.width

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the D features: the columns', or `column[0]`, `column[1]`, ... for a list column."""
        if self.width is None:
            return self.columns
        return tuple(f"{self.columns[0]}[{i}]" for i in range(self.width))

    @property
    def feature_types(self) -> tuple[np.dtype[Any], ...]:
        """NumPy types of the D features."""
        return tuple(np.dtype(t) for t in self.types) * (self.width or 1)


@dataclass(frozen=True)
class DataSet:
    """Training rows and held-out rows, with their classes and their normalisation."""

    train: Rows
    val: Rows | None
    classes: NDArray[Any]
    """(C,) int64 or unicode, sorted: what the class indices stand for."""

    feature_names: tuple[str, ...]
    schema: InputSchema
    normalization: Normalization
    """From the values of the files to the inputs of the net, for prediction; its statistics are the training rows'."""

    transform: BatchTransform
    """What `gather` has still to do to the stored rows."""

    digest: str
    """SHA-256 of all of the above, whatever files, and however many, it was read from."""

    source: str
    """The value of `data.train`: a path, a glob or `digits`."""

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return sum(part.X.nbytes + part.y.nbytes for part in (self.train, self.val) if part is not None)


def digest_of(
    train: Rows, val: Rows | None, classes: NDArray[Any], names: tuple[str, ...], normalization: Normalization
) -> str:
    """Return the SHA-256 of types, shapes and bytes of all arrays, and of the names of features and classes."""
    arrays = [train.X, train.y, *([val.X, val.y] if val else []), normalization.shift, normalization.scale]
    head = {
        "arrays": [(array.dtype.str, array.shape) for array in arrays],
        "classes": classes.tolist(),
        "names": names,
    }
    sha = hashlib.sha256(json.dumps(head).encode())
    for array in arrays:
        sha.update(memoryview(array).cast("B"))
    return sha.hexdigest()
