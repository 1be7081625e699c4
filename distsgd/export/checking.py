"""Whether an exported model predicts what the model does: on made-up rows that look like the training rows."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from distsgd.core.inputs import Column
from distsgd.core.losses import LOSSES
from distsgd.core.predictor import Predictor
from distsgd.errors import ConfigError, ExportError

ROWS = 64
"""Rows of the comparison; the first one is compared alone, too."""

TOLERANCE = 1e-5
"""Largest difference of a probability, or of another output relative to its size if that is larger than 1."""

UNKNOWN = "a value that no training row has"

Rows = np.ndarray | dict[str, np.ndarray]
"""Features (n, D) of a model that takes them by position, or else the values (n,) of each column."""


def require(form: str, *packages: str) -> None:
    """Refuse a format whose packages are not installed."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"--format {form} needs the package{'s' * (len(missing) > 1)} {' and '.join(missing)}, which "
            f"{'are' if len(missing) > 1 else 'is'} not installed: pip install 'distsgd[export]', or in a checkout "
            "pip install -c constraints.txt '.[export]'"
        )


def refuse_hashes(form: str, columns: tuple[Column, ...]) -> None:
    """Refuse a model with hashed categories."""
    hashed = [column.name for column in columns if column.kind == "hash"]
    if hashed:
        raise ConfigError(
            f"{form} cannot express hashed categories (column {hashed[0]!r}): export npz or safetensors, or train with "
            "data.categorical=one-hot"
        )


def by_position(predictor: Predictor) -> bool:
    """Return whether an exported model takes one matrix (n, D), because every feature is a number of the rows."""
    return predictor.inputs is None or predictor.inputs.by_position


def rows_like_training(predictor: Predictor) -> Rows:
    """Return ROWS rows: normal numbers of the columns' types, and the categories in turn, one of them unknown."""
    rng = np.random.default_rng(0)
    numbers: np.ndarray = rng.standard_normal((ROWS, predictor.net.features)) / predictor.scale + predictor.shift
    if predictor.inputs is None:
        return numbers
    found, place = {}, 0
    for column in predictor.inputs.columns:
        values = numbers[:, place : place + column.features]
        place += column.features
        found[column.name] = _values_like(column, values)
    if predictor.inputs.by_position:
        return np.concatenate([np.asarray(v).reshape(ROWS, -1) for v in found.values()], axis=1)
    return found


def _values_like(column: Column, numbers: np.ndarray) -> np.ndarray:
    """Return values of a column's type; numbers (n, width) are what its normalised features were made from."""
    if column.kind == "category":
        known = [*column.categories, UNKNOWN if column.dtype == "str" else column.categories[-1]]
        return np.array([known[i % len(known)] for i in range(ROWS)], category_type(column))
    if column.kind == "boolean":
        return np.asarray(numbers[:, 0] > np.median(numbers[:, 0]))
    kind = np.dtype(column.dtype)
    values = numbers if column.kind == "list" else numbers[:, 0]
    if kind.kind in "iu":
        limits = np.iinfo(kind)
        values = np.clip(np.rint(values), float(limits.min) / 2, float(limits.max) / 2)
    return np.asarray(values, kind)


def category_type(column: Column) -> np.dtype[Any]:
    """Return the NumPy type of a category's values."""
    return np.dtype({"str": object, "int64": np.int64, "bool": np.bool_}[column.dtype])


def first(rows: Rows) -> Rows:
    """Return the first row alone."""
    return {name: values[:1] for name, values in rows.items()} if isinstance(rows, Mapping) else rows[:1]


def check(predictor: Predictor, form: str, outputs: Callable[[Rows], tuple[Any, Any]]) -> float:
    """Compare the `outputs` of an exported model, predictions and probabilities or scores, with those of the model.

    Return the largest difference; ExportError if it exceeds TOLERANCE, or a class differs that is not a tie.
    """
    rows, largest = rows_like_training(predictor), 0.0
    for some in (rows, first(rows)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of categories that are not known
            predicted, expected = predictor.predict_both(some)
            found, values = outputs(some)
        largest = max(largest, _difference(np.asarray(values), expected))
        if LOSSES[predictor.net.loss].target == "class":
            margin = np.sort(expected, axis=1)
            clear = margin[:, -1] - margin[:, -2] > TOLERANCE
            if not np.array_equal(np.asarray(found)[clear], predicted[clear]):
                raise ExportError(f"the {form} model predicts other classes than the model; it was not written")
    return largest


def _difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference of outputs (n, C), relative to those that are larger than 1."""
    if found.shape != expected.shape:
        raise ExportError(f"the exported model has outputs {found.shape}, expected {expected.shape}")
    difference = np.abs(found - expected) / np.maximum(1, np.abs(expected))
    largest = float(difference.max())
    if not largest <= TOLERANCE:
        raise ExportError(
            f"the exported model's outputs differ from the model's by up to {largest:.1e}, more than {TOLERANCE:g}; "
            "it was not written"
        )
    return largest
