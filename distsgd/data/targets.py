"""Targets that are no classes: labels of 0 and 1, or real numbers, in one column of lists or in several columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from distsgd.core.names import shortened
from distsgd.data.columns import MissingLabel, RowError
from distsgd.data.schema import InputSchema
from distsgd.errors import DataError


class TargetEncoder(Protocol):
    """Turns label columns into the targets that a net is trained with; labels.LabelEncoder is that of classes."""

    @property
    def notices(self) -> tuple[str, ...]:
        """What looks odd about the targets, once `finish` has been called."""
        ...

    def empty(self, count: int) -> NDArray[Any]:
        """Return an array for so many targets."""
        ...

    def encode_rows(self, rows: pa.RecordBatch) -> NDArray[Any]:
        """Return the targets of a batch of rows; RowError for one that cannot be one."""
        ...

    def finish(self, parts: Sequence[NDArray[Any]], location: str) -> NDArray[Any]:
        """Return what the C outputs stand for, once all rows have been encoded into `parts`, which may be changed.

        DataError if there is nothing to learn from the targets.
        """
        ...


@dataclass(frozen=True)
class ArrayTargets:
    """Targets (n, C) float32: of several columns of single values, or of one column, of lists or of single values."""

    schema: InputSchema
    notices: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """What the C outputs are called: their columns, or `scores[0]`, `scores[1]`, ... for a column of lists."""
        labels, width = self.schema.labels, self.schema.label_width
        return list(labels) if width is None else [f"{labels[0]}[{i}]" for i in range(width)]

    def empty(self, count: int) -> NDArray[Any]:
        """See TargetEncoder.empty."""
        return np.empty((count, len(self.names)), np.float32)

    def encode_rows(self, rows: pa.RecordBatch) -> NDArray[Any]:
        """See TargetEncoder.encode_rows."""
        y = self.empty(rows.num_rows)
        for place, name in enumerate(self.schema.labels):
            column = rows.column(name)
            if self.schema.label_width is None:
                values = _numbers(column, name).reshape(-1, 1)
                self._check(values, name)
                y[:, place] = values[:, 0]
            else:
                values = _lists(column, name, self.schema.label_width)
                self._check(values, name)
                y[:] = values
        return y

    def _check(self, values: NDArray[np.float64], name: str) -> None:
        """Refuse values (n, ...) of a column that are no targets."""
        labels = self.schema.label_kind == "labels"
        bad = (values != 0) & (values != 1) if labels else np.abs(values) > np.finfo(np.float32).max
        bad |= np.isnan(values)
        if bad.any():
            row, place = np.argwhere(bad)[0].tolist()
            where = f"the label column {shortened(name)!r}" + (f", element {place}" if values.shape[1] > 1 else "")
            if np.isnan(values[row, place]):
                raise MissingLabel(row, f"nan in {where}")
            expected = "0 or 1 (model.loss=logistic)" if labels else "a finite number that float32 holds"
            raise RowError(row, f"{values[row, place]:g} in {where}; expected {expected}")

    def finish(self, parts: Sequence[NDArray[Any]], location: str) -> NDArray[Any]:
        """See TargetEncoder.finish: names of the outputs; DataError if all targets are the same."""
        first = parts[0][0]
        if all((y == first).all() for y in parts):
            columns = ", ".join(repr(shortened(name)) for name in self.schema.labels[:5])
            raise DataError(
                f"{location}: every row has the same labels in {columns}; expected some that differ: choose another "
                "column with data.label"
            )
        return np.array(self.names)


def _numbers(column: pa.Array, name: str) -> NDArray[np.float64]:
    """Return a column's numbers (n,); MissingLabel for a null."""
    if column.null_count:
        row = np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0]
        raise MissingLabel(int(row), f"null in the label column {shortened(name)!r}")
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.uint8())
    return np.asarray(column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False))


def _lists(column: pa.Array, name: str, width: int) -> NDArray[np.float64]:
    """Return a column's lists (n, C); MissingLabel for a null, RowError for a list of another length."""
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if column.null_count:
        row = np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0]
        raise MissingLabel(int(row), f"null in the label column {shortened(name)!r}")
    if not pa.types.is_fixed_size_list(column.type):
        lengths = column.value_lengths().to_numpy()
        wrong = np.flatnonzero(lengths != width)
        if wrong.size:
            raise RowError(
                int(wrong[0]), f"a list of {lengths[wrong[0]]} in the label column {shortened(name)!r}, not {width}"
            )
    values = column.flatten()
    if values.null_count:
        place = int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0])
        raise MissingLabel(place // width, f"null in the label column {shortened(name)!r}, element {place % width}")
    return _numbers(values, name).reshape(-1, width)
