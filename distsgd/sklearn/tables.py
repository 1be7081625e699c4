"""Tables as the estimators take them: frames with text, and paths of files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from distsgd.config import Config, DataConfig
from distsgd.core.frames import column_names, column_values, is_frame
from distsgd.core.inputs import Inputs
from distsgd.core.losses import LOSSES
from distsgd.data import DataSet, load
from distsgd.data.loading import Arithmetic
from distsgd.data.model_rows import open_rows
from distsgd.errors import DataError, RefusedError
from distsgd.sklearn.messages import in_terms_of_estimators

BLOCK_ROWS = 2**16
"""Rows that are read from files at a time."""


def is_path(X: Any) -> bool:
    """Return whether X is the path of files."""
    return isinstance(X, str | os.PathLike)


def is_table(X: Any) -> bool:
    """Return whether X is a path, or a frame with a column that is not of numbers, which scikit-learn does not take.

    ValueError for a frame with two columns of one name, or without rows yet.
    """
    if is_path(X):
        return True
    if hasattr(type(X), "collect"):  # a frame may have a column of that name
        raise ValueError("X is a lazy frame, which has no rows yet; pass X.collect()")
    if hasattr(X, "nnz") or not is_frame(X):  # scipy's sparse matrices of keys are mappings, too
        return False
    names = column_names(X)
    counts = Counter(names)
    if len(counts) < counts.total():
        name, count = counts.most_common(1)[0]
        raise ValueError(f"{count} columns of X have the name {str(name)!r}; expected one")
    return isinstance(X, Mapping) or any(
        np.asarray(column_values(X, name)).dtype.kind not in "biuf" for name in column_names(X)
    )


def check_unmasked(*arrays: Any) -> None:
    """Refuse masked arrays, whose hidden values scikit-learn takes as if there were no mask."""
    if any(isinstance(array, np.ma.MaskedArray) and np.ma.is_masked(array) for array in arrays):
        raise ValueError("a masked array was passed, with values under its mask; pass its .filled(...)")


def load_table(
    X: Any,
    y: Any,
    loss: str,
    held_out: float,
    seed: int | None,
    weights: Any = None,
    class_weight: Any = None,
    arithmetic: Arithmetic = "fast",
) -> tuple[DataSet, dict[str, Any]]:
    """Return the rows of a frame or of a path's files as `distsgd.train` reads them, and the settings of that.

    y is the name of the label column, None for the column `label`; of a path also a list of names, and of a frame its
    labels (n,) or (n, C). `held_out` is the fraction of rows to hold out, and `seed` decides which. `weights` (n,) are
    those of the rows, and `class_weight` is as scikit-learn has it; statistics of the rows follow `arithmetic`.
    ValueError for what cannot be read.
    """
    settings: dict[str, Any] = {"data.normalize": "none", "data.val_fraction": held_out, "model.loss": loss}
    if seed is not None:
        settings["data.split_seed"] = seed
    data = None
    if is_path(X):
        settings["data.train"] = os.fspath(X)
        names = [y] if isinstance(y, str) else y
        if not isinstance(names, list | tuple | None) or not all(isinstance(name, str) for name in names or ()):
            raise ValueError("X is a path: y is the name of its label column, or None for the column 'label'")
        if names:
            settings["data.label"] = list(names)
    elif y is None or isinstance(y, str):
        data = X
        if y is not None:
            settings["data.label"] = [y]
    else:
        data = X, np.asarray(y) if np.ndim(y) == 2 else y
    try:
        config = Config.build(settings)
        return load(
            config.data,
            data=data,
            weights=None if weights is None else _numbers(weights),
            target=LOSSES[loss].target,
            class_weight=_by_name(class_weight),
            arithmetic=arithmetic,
        ), settings
    except RefusedError as error:
        raise ValueError(in_terms_of_estimators(str(error), LOSSES[loss].target)) from None


def _numbers(weights: Any) -> np.ndarray:
    """Return the weights of rows (n,) float64; ValueError if they are no list of numbers."""
    try:
        found = np.asarray(weights, np.float64)
    except (TypeError, ValueError):
        raise ValueError("sample_weight holds something else than numbers") from None
    if found.ndim != 1:
        raise ValueError(f"sample_weight is of shape {found.shape}; expected (n,), a weight for each row")
    return found


def _by_name(class_weight: Any) -> Any:
    """Return the weights of classes by their names, as `distsgd.train` takes them; ValueError for one that is 0."""
    if not isinstance(class_weight, dict):
        return class_weight
    for label, weight in class_weight.items():
        if not weight:
            raise ValueError(f"class_weight gives class {label!r} of a table the weight 0; expected a number above 0")
    return {_name(label): float(weight) for label, weight in class_weight.items()}


def _name(label: Any) -> str:
    """Return the name of the class that a label is of: true and 1.0 are of class 1, as in the label column."""
    whole = isinstance(label, bool | np.bool_) or (isinstance(label, float | np.floating) and float(label).is_integer())
    return str(int(label)) if whole else str(label)


def in_arrays(X: Any, inputs: Inputs) -> Any:
    """Return X as a model with such inputs takes it: the features (n, D) of a path's rows, or X as it is.

    ValueError for files that do not fit.
    """
    if not is_path(X):
        return X
    try:
        rows = open_rows(os.fspath(X), DataConfig(), inputs)
        return np.concatenate([part.X for part in rows.parts(BLOCK_ROWS)])
    except DataError as error:
        raise ValueError(str(error)) from None
