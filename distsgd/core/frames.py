"""Columns by name: of pandas, polars and pyarrow frames, mappings and structured arrays, none of which is imported.

This file is copied into every model that is logged to MLflow, so it needs NumPy alone.
"""

from __future__ import annotations

import difflib
import re
import warnings
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from .encoding import check_unmasked
from .names import shortened

SHOWN = 8
"""Names that a message lists."""


def is_frame(X: Any) -> bool:
    """Return whether X has columns with names."""
    if isinstance(X, np.ndarray):
        return X.dtype.names is not None
    return isinstance(X, Mapping) or (hasattr(X, "columns") and hasattr(X, "__getitem__"))


def column_names(X: Any) -> list[Any]:
    """Return the names of a frame's columns, in their order; pandas' may be anything, such as numbers."""
    if isinstance(X, np.ndarray):
        return list(X.dtype.names or ())
    if isinstance(X, Mapping):
        return list(X)
    found = getattr(X, "column_names", None)  # pyarrow's; its `columns` are the columns themselves
    return list(X.columns if found is None else found)


def column_values(X: Any, name: Hashable) -> np.ndarray:
    """Return a column's values (n,), a missing one as NaN or None; (n, width) if the frame has them so."""
    column = X[name]
    check_unmasked(column)
    dtype = getattr(column, "dtype", None)
    if dtype is not None and getattr(dtype, "kind", "O") in "biuf" and hasattr(dtype, "numpy_dtype"):
        # One of pandas' types with a mask: its values would become Python objects.
        kind = np.dtype(np.float64) if column.isna().any() else dtype.numpy_dtype
        return np.asarray(column.to_numpy(kind, na_value=np.nan))
    try:
        found = np.asarray(column)
    except ValueError:  # lists of unequal length
        found = np.empty(len(column), object)
        found[:] = column
    if found.ndim == 0:
        raise ValueError(f"column {str(name)!r} is a single value; expected one for each row")
    return found


def choose_columns(found: Sequence[Any], wanted: Sequence[str]) -> dict[str, Any]:
    """Return the name in the frame of each column wanted; warn of others, and ValueError for one missing or twice."""
    names = {str(name): name for name in found}
    missing = [name for name in wanted if name not in names]
    others = [name for name in names if name not in set(wanted)]
    if missing:
        near = _nearest(missing[0], others)
        raise ValueError(
            f"no column {_listing(missing)}{near}, which this model was trained on; the columns are {_listing(names)}"
        )
    counts = Counter(str(name) for name in found)
    for name in wanted:
        if counts[name] > 1:
            raise ValueError(f"{counts[name]} columns have the name {shortened(name)!r}; expected one")
    if others:
        warnings.warn(f"columns that this model was not trained on are ignored: {_listing(others)}", stacklevel=2)
    return {name: names[name] for name in wanted}


def only_count(names: Sequence[Any]) -> bool:
    """Return whether names only count: 0, 1, 2, ..., or pixel1, pixel2, ..."""
    parts = [re.fullmatch(r"(.*?)(\d+)", str(name), re.DOTALL) for name in names]
    found = [(part[1], int(part[2])) for part in parts if part]
    return len(found) == len(parts) and found == [(found[0][0], found[0][1] + i) for i in range(len(found))]


def _nearest(name: str, others: Sequence[str]) -> str:
    folded = {other.casefold(): other for other in others}
    near = difflib.get_close_matches(name.casefold(), folded, n=1)
    return f" (did you mean {shortened(folded[near[0]])!r}?)" if near else ""


def _listing(names: Sequence[str] | Mapping[str, Any]) -> str:
    listed = list(names)
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return ", ".join(repr(shortened(str(name))) for name in listed[:SHOWN]) + more
