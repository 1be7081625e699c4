"""The values of one column as numbers: missing ones found, categories as the number of their feature.

A value is missing if it is NaN, None, NaT or pandas' NA. This file is copied into every model that is logged to MLflow,
so it needs NumPy alone.
"""

from __future__ import annotations

import math
import warnings
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

SHOWN = 5
"""Unknown categories that a warning names."""


def is_missing(value: Any) -> bool:
    """Return whether a single value stands for none."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float | np.floating) and math.isnan(value)


def find_missing(values: np.ndarray) -> np.ndarray:
    """Return which values (n,) are missing."""
    if values.dtype.kind == "f":
        return np.asarray(np.isnan(values))
    if values.dtype.kind == "O":
        return np.fromiter((is_missing(value) for value in values), bool, len(values))
    return np.zeros(len(values), bool)


def numbers(values: np.ndarray) -> np.ndarray:
    """Return real numbers (n,), NaN for what is missing; ValueError if there is anything else."""
    if values.ndim != 1:
        raise ValueError(f"the values have the shape {values.shape}; expected a number for each row")
    if values.dtype.kind == "O":
        return np.fromiter((_number(value, row) for row, value in enumerate(values)), np.float64, len(values))
    if values.dtype.kind not in "biuf":
        raise ValueError(f"the values are of type {values.dtype}; expected real numbers")
    return values


def _number(value: Any, row: int) -> float:
    """Return a Python object as a number; text is none, even if it reads like one."""
    if is_missing(value):
        return math.nan
    if not isinstance(value, str | bytes):
        try:
            return float(value)
        except (TypeError, ValueError, OverflowError):
            pass
    raise ValueError(f"{str(value)[:40]!r} in row {row}, counted from 0, is not a number") from None


def check_unmasked(values: Any) -> None:
    """Raise ValueError for a masked array: NumPy would take what is hidden under the mask for its values."""
    if isinstance(values, np.ma.MaskedArray):
        raise ValueError("it is a masked array; expected one without a mask: pass its .filled(...)")


def matrix_of(X: Any, width: int) -> np.ndarray:
    """Return an array or nested lists (n, width) as real numbers, NaN for what is missing; ValueError for all else."""
    check_unmasked(X)
    raw = np.asarray(X)
    if raw.ndim != 2 or raw.shape[1] != width:
        hint = "; a single row is [row]" if raw.shape == (width,) else ""
        raise ValueError(f"features have the shape {raw.shape}; this model takes (n, {width}){hint}")
    if raw.dtype.kind == "O":
        raw = np.stack([_column_of_numbers(raw[:, number], number) for number in range(width)], axis=1)
    if raw.dtype.kind not in "biuf":
        raise ValueError(f"features are of type {raw.dtype}; this model takes real numbers")
    return raw


def _column_of_numbers(values: np.ndarray, number: int) -> np.ndarray:
    try:
        return numbers(values)
    except ValueError as error:
        raise ValueError(f"feature {number}: {error}") from None


def lists(values: np.ndarray, width: int) -> np.ndarray:
    """Return the elements (n, width) of lists (n,), or of an array (n, width), as `numbers` does."""
    if values.dtype.kind == "O" and values.ndim == 1:
        rows = [np.asarray(() if is_missing(value) else value) for value in values]
        for number, row in enumerate(rows):
            if row.shape != (width,):
                raise ValueError(f"{_shape(row)} in row {number}, counted from 0; expected a list of {width} numbers")
        values = np.stack(rows) if rows else np.empty((0, width))
    if values.ndim != 2 or values.shape[1] != width:
        raise ValueError(f"the values have the shape {values.shape}; expected lists of {width} numbers")
    if values.dtype.kind == "O":
        rows = [_row_of_numbers(row, number) for number, row in enumerate(values)]
        return np.stack(rows)
    return numbers(values.ravel()).reshape(values.shape)


def _row_of_numbers(row: np.ndarray, number: int) -> np.ndarray:
    return np.array([_number(value, number) for value in row])


def _shape(row: np.ndarray) -> str:
    return f"a list of {len(row)}" if row.ndim == 1 else f"values of the shape {row.shape}"


def places(
    values: np.ndarray, missing: np.ndarray, categories: Sequence[str | int], *, texts: bool, name: str
) -> np.ndarray:
    """Return the number of each value's category (n,), -1 for a missing or, with a warning, an unknown one."""
    place = {category: number for number, category in enumerate(categories)}
    keys = _keys(values, missing, texts=texts)
    found = np.fromiter((place.get(key, -1) for key in keys), np.int64, len(values))
    unknown = (found < 0) & ~missing
    if unknown.any():
        seen = list(dict.fromkeys(keys[row] for row in np.flatnonzero(unknown)))
        more = f" and {len(seen) - SHOWN} more" if len(seen) > SHOWN else ""
        warnings.warn(
            f"column {name!r}: {int(unknown.sum())} of {len(values)} rows have a value that the training rows did not "
            f"have, and none of its features is set: {', '.join(repr(value) for value in seen[:SHOWN])}{more}",
            stacklevel=2,
        )
    return found


def buckets(values: np.ndarray, missing: np.ndarray, width: int, *, texts: bool) -> np.ndarray:
    """Return each value's bucket (n,): CRC-32 of its text in UTF-8, modulo `width`; -1 for a missing one."""
    keys = _keys(values, missing, texts=texts)
    known = {key: zlib.crc32(str(key).encode("utf-8", "surrogatepass")) % width for key in set(keys)}
    return np.where(missing, -1, np.fromiter((known[key] for key in keys), np.int64, len(values)))


def one_hot(numbers: np.ndarray, out: np.ndarray) -> None:
    """Fill `out` (n, k) with 1 in the column that is each row's number (n,), and 0 elsewhere."""
    out[:] = 0
    rows = np.flatnonzero(numbers >= 0)
    out[rows, numbers[rows]] = 1


def _keys(values: np.ndarray, missing: np.ndarray, *, texts: bool) -> list[Any]:
    """Return the values as text, or else as integers, and missing ones as None; ValueError if one is neither."""
    pairs = zip(values.tolist(), missing.tolist(), strict=True)
    return [None if gone else _key(value, row, texts=texts) for row, (value, gone) in enumerate(pairs)]


def _key(value: Any, row: int, *, texts: bool) -> str | int:
    if texts and isinstance(value, str):
        return value
    if not texts and isinstance(value, int | np.integer | np.bool_):
        return int(value)
    if not texts and isinstance(value, float) and value.is_integer():  # integers that can be missing are read as floats
        return int(value)
    raise ValueError(
        f"{str(value)[:40]!r} in row {row}, counted from 0, is {type(value).__name__}; the model was trained on "
        f"{'text' if texts else 'integers'}"
    )
