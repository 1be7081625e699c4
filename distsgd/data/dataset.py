"""Loaded data: the rows, and what is needed to train on them and to predict later."""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from distsgd.core.inputs import Column, Inputs
from distsgd.data.normalization import BatchTransform, Normalization


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

    def on(self, xp: ModuleType) -> ArrayRows:
        """See Rows.on."""
        return ArrayRows(*(None if array is None else xp.asarray(array) for array in (self.X, self.y, self.w)))

    def update_digest(self, sha: Hash) -> None:
        """See Rows.update_digest."""
        for array in (self.X, self.y, self.w):
            if array is not None:
                sha.update(memoryview(array).cast("B"))


@dataclass(frozen=True)
class InputSchema:
    """The columns that rows were read from, as a signature has to describe them."""

    columns: tuple[str, ...]
    """Names of the feature columns, in order; one name if the features are a list column."""

    types: tuple[str, ...]
    """NumPy type of each feature column's values, such as `uint8`, `float32`, `bool`, or `str` for text."""

    width: int | None
    """Length D of the lists in the one list column; None if every column has single values."""

    labels: tuple[str, ...]
    """Names of the label columns, which are never features: one, unless targets are labels or numbers."""

    label_kind: Literal["integer", "string", "labels", "numbers"] | None
    """What targets are: classes that are integers (as booleans are) or strings, labels of 0 and 1, or numbers. None if
    rows are read without them."""

    label_width: int | None = None
    """Length C of the lists in the one label column; None if label columns have single values."""

    weight: str | None = None
    """Name of the column of weights, which is never a feature; None if each row counts once."""

    categorical: frozenset[str] = frozenset()
    """Names of the feature columns whose values are categories."""

    left_out: tuple[tuple[str, str], ...] = ()
    """Columns that are not features although nobody excluded them, each with the reason."""

    excluded: tuple[str, ...] = ()
    """Columns that data.exclude names."""

    named: bool = False
    """Whether data.features names the feature columns."""

    fitted: Inputs | None = None
    """What the training rows say of categories and missing values; None as long as they have not been looked at."""

    @property
    def label(self) -> str:
        """Name of the only label column, or of the first one."""
        return self.labels[0]

    @property
    def labelled(self) -> bool:
        """Whether the label column is read."""
        return self.label_kind is not None

    @functools.cached_property
    def inputs(self) -> Inputs:
        """The feature columns as the model keeps them, by which it predicts."""
        if self.fitted is not None:
            return self.fitted
        if self.width is not None:
            return Inputs((Column(name=self.columns[0], kind="list", dtype=self.types[0], width=self.width),))
        return Inputs(
            tuple(
                Column(name=name, kind="boolean" if np.dtype(kind).kind == "b" else "number", dtype=kind)
                for name, kind in zip(self.columns, self.types, strict=True)
            )
        )

    @property
    def num_features(self) -> int:
        """The number of features, D; before the training rows have been looked at, categories count as one."""
        if self.fitted is None:
            return len(self.columns) if self.width is None else self.width
        return self.fitted.features

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the D features: `age`, `color=red`, `pixels[3]`, `city#17`."""
        return self.inputs.feature_names

    @property
    def stored_types(self) -> tuple[np.dtype[Any], ...]:
        """NumPy types of the columns' features; those of a category are booleans."""
        pairs = zip(self.columns, self.types, strict=True)
        return tuple(np.dtype(bool if name in self.categorical else kind) for name, kind in pairs)

    @property
    def feature_types(self) -> tuple[np.dtype[Any], ...]:
        """NumPy types of the D features."""
        columns = zip(self.stored_types, self.inputs.columns, strict=True)
        return tuple(kind for kind, column in columns for _ in range(column.features))

    @functools.cached_property
    def measured(self) -> NDArray[np.bool_]:
        """Which features (D,) are normalised: all but the 0 and 1 of categories."""
        columns = self.inputs.columns
        return np.repeat([c.kind not in ("category", "hash") for c in columns], [c.features for c in columns])


@dataclass(frozen=True)
class DataSet:
    """Training rows and held-out rows, with their classes and their normalisation."""

    train: Rows
    val: Rows | None
    classes: NDArray[Any]
    """(C,) what the outputs stand for: classes, int64 or unicode, sorted; or the names of labels or numbers."""

    feature_names: tuple[str, ...]
    schema: InputSchema
    inputs: Inputs
    """The feature columns as the model keeps them: how their values become features."""

    normalization: Normalization
    """From the values of the files to the inputs of the net, for prediction; its statistics are the training rows'."""

    transform: BatchTransform
    """What is still to be done to the stored rows of a batch."""

    digest: str
    """SHA-256 of all of the above, whatever files, and however many, it was read from."""

    source: str
    """What messages call the training rows: a path, a glob, `digits`, or what was passed in memory."""

    description: str = ""
    """Which columns are features, and which were left out, in a line."""

    features: dict[str, Any] = field(default_factory=dict)
    """The same, complete: `used` (names), and `left_out` (the reason of each name)."""

    notices: tuple[str, ...] = ()
    """What was found out about the data and the user should know, one line each, in the order of reading."""

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return sum(part.nbytes for part in (self.train, self.val) if part is not None)


def digest_of(
    train: Rows, val: Rows | None, classes: NDArray[Any], names: tuple[str, ...], normalization: Normalization
) -> str:
    """Return the SHA-256 of the types, shapes and bytes of all arrays, and of the names of features and classes."""
    parts = [train, *([val] if val else [])]
    described: list[Any] = []
    for rows in parts:
        kind, shape = rows.target
        described += [(rows.dtype.str, (len(rows), rows.features)), (kind.str, (len(rows), *shape))]
        described += [("<f4", (len(rows),))] if rows.weighted else []
    statistics = (normalization.shift, normalization.scale)
    head = {
        "arrays": [*described, *((array.dtype.str, array.shape) for array in statistics)],
        "classes": classes.tolist(),
        "names": names,
    }
    sha = hashlib.sha256(json.dumps(head).encode())
    for rows in parts:
        rows.update_digest(sha)
    for array in statistics:
        sha.update(array.tobytes())
    return sha.hexdigest()
