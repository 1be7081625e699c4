"""The columns that rows were read from, and what becomes of them."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from distsgd.core.inputs import Column, Inputs


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
