"""What a model was trained on: its columns by name and type, and how their values become features.

This file is copied into every model that is logged to MLflow, so it needs NumPy alone.
"""

from __future__ import annotations

import functools
import json
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

import numpy as np

from .encoding import buckets, find_missing, lists, matrix_of, numbers, one_hot, places
from .frames import choose_columns, column_names, column_values, is_frame, only_count
from .names import shortened

Kind = Literal["number", "boolean", "category", "hash", "list"]

BLOCK_BYTES = 2**18
"""Bytes of the rows that are written together: they stay in a core's cache while one column after another is copied."""

NUMBER_TYPES = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64"),
)
"""NumPy's names of the types that numbers, booleans and the elements of lists may have in the training files."""

CATEGORY_TYPES = {"str": str, "int64": int, "bool": int}
"""The types that categories may have in the training files, and Python's for them; false is 0, true is 1."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of the training data that features are made of; ValueError if its description contradicts itself."""

    name: str
    kind: Kind
    dtype: str
    """NumPy type of the values in the training files, such as `int64`; of a category `str`, `int64` or `bool`."""

    categories: tuple[str | int, ...] = ()
    """The values of a category, sorted: one feature each, which is 1 where the value is this one and 0 elsewhere."""

    width: int = 1
    """Length of the lists, or number of buckets of a hash."""

    fill: float | None = None
    """What a missing number, boolean or element of a list becomes; None if a missing value is refused."""

    missing: bool = False
    """Whether a category or hash may be missing, which makes all of its features 0."""

    def __post_init__(self) -> None:
        if problem := _problem(self):
            raise ValueError(f"column {shortened(str(self.name))!r}: {problem}")

    @property
    def features(self) -> int:
        """The number of features that the column becomes."""
        return len(self.categories) if self.kind == "category" else self.width

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of these features: `age`, `color=red`, `pixels[3]`, `city#17`."""
        if self.kind == "category":
            values = (bool(c) for c in self.categories) if self.dtype == "bool" else self.categories
            return tuple(f"{self.name}={value}" for value in values)
        form = {"list": "{}[{}]", "hash": "{}#{}"}.get(self.kind, "{}")
        return tuple(form.format(self.name, i) for i in range(self.width))


@dataclass(frozen=True)
class Inputs:
    """All columns, in the order of the features; ValueError if two have the same name or there is none."""

    columns: tuple[Column, ...]

    def __post_init__(self) -> None:
        if not self.columns or len({column.name for column in self.columns}) < len(self.columns):
            raise ValueError("a model has at least one column, and each has a name of its own")

    @functools.cached_property
    def features(self) -> int:
        """The number of features, D."""
        return sum(column.features for column in self.columns)

    @functools.cached_property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the features (D,)."""
        return tuple(name for column in self.columns for name in column.feature_names)

    @property
    def by_position(self) -> bool:
        """Whether a row of the columns' values is a row of the features: there is no category and no hash."""
        return all(column.kind in ("number", "boolean", "list") for column in self.columns)

    def matrix(self, X: Any) -> np.ndarray:
        """Return features (n, D) of real numbers, none of them NaN.

        A frame (pandas, polars, pyarrow), a mapping of arrays or a structured array is read by the columns' names,
        whatever their order; other columns are ignored, with a warning. An array or nested lists (n, D) are taken as
        the features in their order, as is a frame whose columns have no names but numbers from 0. ValueError, naming
        column and row, for what is missing or does not fit.
        """
        if not is_frame(X):
            return self._of_array(X)
        names = column_names(X)
        if self._takes_positions(names):
            return self._of_array(np.stack([_named(n, numbers, column_values(X, n)) for n in names], axis=1))
        found = choose_columns(names, [column.name for column in self.columns])
        return self.block({column.name: column_values(X, found[column.name]) for column in self.columns})

    def block(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return features (n, D) from the values (n,) or, of lists, (n,) or (n, width), of each column by its name.

        A missing value is NaN or None. The result has the columns' type if all have the same one, else it is float64.
        A category that the training rows did not have becomes zeros, with a warning. ValueError as `matrix`.
        """
        parts = [_named(column.name, _values, column, columns[column.name]) for column in self.columns]
        counts = {len(part) for part in parts}
        if len(counts) > 1:
            raise ValueError(f"the columns have {min(counts)} to {max(counts)} rows; expected the same number in all")
        types = {part.dtype for part in parts}
        dtype = types.pop() if len(types) == 1 and self.by_position else np.dtype(np.float64)
        out = np.empty((counts.pop(), self.features), dtype)
        count = max(16, BLOCK_BYTES // (dtype.itemsize * self.features))
        for start in range(0, len(out), count):
            rows, place = slice(start, start + count), 0
            for column, part in zip(self.columns, parts, strict=True):
                target = out[rows, place : place + column.features]
                if column.kind in ("category", "hash"):
                    one_hot(part[rows], target)
                else:
                    target[:] = part[rows].reshape(target.shape)
                place += column.features
        return out

    def to_json(self) -> str:
        """Return the columns as JSON, which `from_json` reads."""
        described = [{k: v for k, v in asdict(c).items() if v != _DEFAULTS[k]} for c in self.columns]
        return json.dumps({"columns": described}, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Inputs:
        """Return the columns that `to_json` wrote; ValueError if the text describes none."""
        try:
            found = json.loads(text)["columns"]
            return cls(tuple(Column(**c | {"categories": tuple(c.get("categories", ()))}) for c in found))
        except (TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(f"the columns are not described as expected: {error}") from None

    def _of_array(self, X: Any) -> np.ndarray:
        """Return an array or nested lists (n, D) as features."""
        raw = matrix_of(X, self.features)
        if raw.dtype.kind != "f" or not (missing := np.isnan(raw)).any():
            return raw
        fills = [math.nan if c.fill is None else c.fill for c in self.columns for _ in range(c.features)]
        filled: np.ndarray = np.where(missing, np.array(fills, raw.dtype), raw)
        if (missing := np.isnan(filled)).any():
            row, number = np.argwhere(missing)[0]
            raise ValueError(f"feature {shortened(self.feature_names[number])!r}: {_missing(int(row))}")
        return filled

    def _takes_positions(self, names: list[Any]) -> bool:
        """Return whether a frame's columns are the features by their order: they have no names, only numbers."""
        if len(names) != self.features or {column.name for column in self.columns} <= {str(name) for name in names}:
            return False
        return names == list(range(len(names))) or (
            [column.kind for column in self.columns] == ["list"] and only_count(names)
        )


_DEFAULTS = {field.name: field.default for field in fields(Column)}


def _named(name: Any, read: Callable[..., np.ndarray], *arguments: Any) -> np.ndarray:
    """Return what `read` returns; its ValueErrors begin with the column's name."""
    try:
        return read(*arguments)
    except ValueError as error:
        raise ValueError(f"column {shortened(str(name))!r}: {error}") from None


def _missing(row: int) -> str:
    return f"no value in row {row}, counted from 0; a model trained with data.missing=refuse takes no missing values"


def _values(column: Column, values: np.ndarray) -> np.ndarray:
    """Return a column's values as `block` writes them: numbers (n,) or (n, width), or each row's one feature (n,)."""
    if column.kind in ("category", "hash"):
        missing = find_missing(values)
        if missing.any() and not column.missing:
            raise ValueError(_missing(int(np.argmax(missing))))
        texts = column.dtype == "str"
        if column.kind == "hash":
            return buckets(values, missing, column.width, texts=texts)
        return places(values, missing, column.categories, texts=texts, name=column.name)
    found = lists(values, column.width) if column.kind == "list" else numbers(values)
    if found.dtype.kind == "f" and (missing := np.isnan(found)).any():
        if column.fill is None:
            raise ValueError(_missing(int(np.argwhere(missing)[0][0])))
        found = np.where(missing, column.fill, found)
    if column.kind == "boolean" and found.dtype.kind != "b":
        wrong = ~((found == 0) | (found == 1))
        if column.fill is not None:
            wrong &= found != column.fill
        if wrong.any():
            row = int(np.argmax(wrong))
            raise ValueError(f"{found[row]} in row {row}, counted from 0; the model was trained on true and false")
    return found


def _problem(column: Column) -> str | None:
    """Return what is wrong with a column's description, which may be that of a file."""
    if not isinstance(column.name, str) or column.kind not in get_args(Kind):
        return f"name and kind are {column.name!r} and {column.kind!r}"
    if type(column.width) is not int or column.width < 1 or (column.width > 1 and column.kind not in ("list", "hash")):
        return f"the width is {column.width!r}"
    if type(column.missing) is not bool or (column.missing and column.kind not in ("category", "hash")):
        return f"missing is {column.missing!r}"
    if column.fill is not None and (
        type(column.fill) not in (int, float)
        or not abs(column.fill) <= sys.float_info.max  # which is exact for an integer of any size, and false for NaN
        or column.kind in ("category", "hash")
    ):
        return f"fill is {str(column.fill)[:40]}"
    if column.kind not in ("category", "hash"):
        known = column.dtype in NUMBER_TYPES and not column.categories
        return None if known else f"the type is {column.dtype!r}, with {len(column.categories)} categories"
    if column.dtype not in CATEGORY_TYPES:
        return f"categories are of type {column.dtype!r}"
    values = column.categories
    if bool(values) != (column.kind == "category") or not all(type(v) is CATEGORY_TYPES[column.dtype] for v in values):
        return f"there are {len(values)} categories, or they are not of type {column.dtype}"
    return None if list(values) == sorted(set(values)) else "the categories are not sorted"
