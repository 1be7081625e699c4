"""Tables as the estimators take them: frames with text, and paths of files."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from distsgd.config import DataConfig
from distsgd.core.frames import column_names, column_values, is_frame
from distsgd.core.inputs import Inputs
from distsgd.data.model_rows import open_rows
from distsgd.errors import DataError

BLOCK_ROWS = 2**16
"""Rows that are read from files at a time."""


def is_table(X: Any) -> bool:
    """Return whether X is a path, or a frame with a column that is not of numbers, which scikit-learn does not take."""
    if isinstance(X, str | os.PathLike):
        return True
    if hasattr(X, "nnz") or not is_frame(X):  # scipy's sparse matrices of keys are mappings, too
        return False
    return any(np.asarray(column_values(X, name)).dtype.kind not in "biuf" for name in column_names(X))


def in_arrays(X: Any, inputs: Inputs) -> Any:
    """Return X as a model with such inputs takes it: the features (n, D) of a path's rows, or X as it is.

    ValueError for files that do not fit.
    """
    if not isinstance(X, str | os.PathLike):
        return X
    try:
        rows = open_rows(os.fspath(X), DataConfig(), inputs)
        return np.concatenate([part.X for part in rows.parts(BLOCK_ROWS)])
    except DataError as error:
        raise ValueError(str(error)) from None
