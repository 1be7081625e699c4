"""Rows that are passed to `distsgd.train` in memory: frames, tables, mappings of columns, and arrays (X, y)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa

from distsgd.config import IN_MEMORY, DataConfig
from distsgd.data import npzfile
from distsgd.data.datafile import TableFile
from distsgd.data.formats import FileFormat
from distsgd.errors import DataError, counted

EXPECTED = (
    "expected a data frame (pandas, polars, pyarrow), a dict of columns, (X, y) with X (N, D) and y (N,), or (X, y, w) "
    "with the rows' weights w (N,)"
)

FAILURES = (pa.ArrowException, TypeError, ValueError, RuntimeError, OverflowError)
"""What pyarrow, NumPy and the libraries of frames and tensors raise for values that they cannot convert."""


@dataclass(frozen=True)
class InMemory(TableFile):
    """The rows as a file, with the format that they would have in one."""

    form: FileFormat
    notices: tuple[str, ...] = ()
    weight: str | None = None
    """Name of the column of weights, if they were passed beside X and y; `data.weight` says it otherwise."""


def _no_path(path: str) -> NoReturn:
    raise DataError(
        f"{path!r} stands for rows that were passed to distsgd.train in memory; pass them again, with data= and val=, "
        "or name their files"
    )


def _notices_of(files: Sequence[InMemory]) -> tuple[str, ...]:
    return tuple(notice for file in files for notice in file.notices)


FRAME = FileFormat(name=IN_MEMORY, suffixes=(), open=_no_path, notices=_notices_of)
"""Rows with named columns."""

ARRAYS = FileFormat(name="(X, y)", suffixes=(), open=_no_path, label=npzfile.LABEL)
"""Rows as the arrays X and y, as an `.npz` file holds them."""


def in_memory(data: Any, config: DataConfig, *, held_out: bool = False) -> InMemory:
    """Return rows in memory; values are copied only where Arrow's layout differs. DataError if it is none of EXPECTED.

    Columns are a frame's, or those of a mapping; `(X, y)` of arrays is what an `.npz` file with X and y holds.
    """
    what = "the held-out data passed to train()" if held_out else "the data passed to train()"
    try:
        if isinstance(data, Mapping) and set(data) == {npzfile.FEATURES, npzfile.LABEL}:
            data = data[npzfile.FEATURES], data[npzfile.LABEL]
        if isinstance(data, tuple) and len(data) in (2, 3):
            return _of_arrays(*data, config=config, what=what)
        return InMemory(what, _of_frame(data, what), FRAME, _notices(data, what))
    except FAILURES as error:
        problem = "; ".join(str(part) for part in error.args).partition("\n")[0] or type(error).__name__
        raise DataError(f"{what} cannot be converted ({problem[:200]}); {EXPECTED}") from None


def _of_arrays(X: Any, y: Any, w: Any = None, *, config: DataConfig, what: str) -> InMemory:
    named = isinstance(X, Mapping) or hasattr(X, "columns") or getattr(getattr(X, "dtype", None), "names", None)
    if named:
        table, form, notices, name = _of_frame(X, what), FRAME, _notices(X, what), config.labels[0]
        if name in table.column_names:
            raise DataError(
                f"{what}: X has a column {name!r}, which is the label's name; leave it out of X, or leave y out"
            )
    else:
        values = _array(X, f"{what}: X")
        if values.ndim != 2 or not values.shape[1] or values.dtype.kind not in "biuf":
            raise DataError(
                f"{what}: X is of shape {values.shape} and type {values.dtype}; expected numbers (N, D), one flat row "
                "for each example"
            )
        table, form, notices = pa.table({npzfile.FEATURES: _lists(values)}), ARRAYS, ()
        name = npzfile.LABEL
    labels = _column(y, f"{what}: y")
    if len(labels) != len(table):
        raise DataError(
            f"{what}: X has {counted(len(table), 'row')} and y has {len(labels)}; expected one label for each row"
        )
    table = table.append_column(name, labels)
    if w is None:
        return InMemory(what, table, form, notices)
    if config.weight is not None:
        raise DataError(f"{what} has weights beside X and y, and data.weight is {config.weight!r}; keep one of them")
    weights = _column(w, f"{what}: w")
    if len(weights) != len(table):
        raise DataError(
            f"{what}: X has {counted(len(table), 'row')} and w has {len(weights)}; expected one weight for each row"
        )
    name = "w"
    while name in table.schema.names:
        name += "_"
    return InMemory(what, table.append_column(name, weights), form, notices, name)


def _of_frame(data: Any, what: str) -> pa.Table:
    if isinstance(data, pa.RecordBatch):
        table = pa.Table.from_batches([data])
    elif isinstance(data, pa.Table):
        table = data
    elif _is_pandas(data) and hasattr(data, "columns"):
        table = pa.Table.from_pandas(data, preserve_index=False)
    elif isinstance(data, Mapping):
        table = _of_mapping(data, what)
    elif isinstance(data, np.ndarray) and data.dtype.names:
        table = _of_mapping({name: data[name] for name in data.dtype.names}, what)
    elif hasattr(data, "columns") and hasattr(data, "__arrow_c_stream__"):
        table = pa.table(data)
    elif hasattr(data, "columns") and hasattr(data, "to_arrow"):
        table = pa.table(data.to_arrow())
    else:
        raise DataError(f"{what} is of type {type(data).__name__}; {EXPECTED}")
    return _without_views(table)


def _of_mapping(data: Mapping[Any, Any], what: str) -> pa.Table:
    columns = {str(name): _column(values, f"{what}: column {str(name)!r}") for name, values in data.items()}
    first = next(iter(columns), "")
    for name, column in columns.items():
        if len(column) != len(columns[first]):
            raise DataError(
                f"{what}: column {first!r} has {counted(len(columns[first]), 'row')} and column {name!r} has "
                f"{len(column)}; expected the same number"
            )
    return pa.table(columns)


def _notices(data: Any, what: str) -> tuple[str, ...]:
    """Return a line on the index of a frame of pandas if it has a name: then it may be meant as a column."""
    names = [str(name) for name in data.index.names if name is not None] if _is_pandas(data) else []
    if not names:
        return ()
    return (f"{what}: the index {', '.join(map(repr, names))} is left out; reset_index() would make it a column",)


def _is_pandas(data: Any) -> bool:
    return type(data).__module__.partition(".")[0] == "pandas"


def _column(values: Any, what: str) -> pa.Array:
    """Return the values (n,), or lists for (n, D), as a column."""
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values
    if _is_pandas(values):
        return pa.Array.from_pandas(values)
    if hasattr(values, "__arrow_c_stream__") and not hasattr(values, "columns"):
        return _without_view(pa.chunked_array(values))
    if hasattr(values, "to_arrow"):
        return values.to_arrow()
    try:
        array = _array(values, what)
    except ValueError:  # lists of unequal length
        return pa.array(values)
    if array.dtype.kind == "S":
        raise DataError(f"{what} holds bytes; expected numbers or text: decode it, for example with .astype(str)")
    if array.ndim == 2 and array.shape[1]:
        return _lists(array)
    if array.ndim != 1:
        raise DataError(f"{what} is of shape {array.shape}; expected one value, or one flat list, for each row")
    return pa.array(array, from_pandas=array.dtype.kind == "O")


def _array(values: Any, what: str) -> np.ndarray:
    """Return an array in this machine's byte order."""
    if hasattr(values, "nnz") and hasattr(values, "toarray"):
        raise DataError(f"{what} is sparse; expected a dense array: pass its .toarray(), if that fits into memory")
    if isinstance(values, np.ma.MaskedArray):
        raise DataError(f"{what} is a masked array; expected one without a mask: pass its .filled(...)")
    array = np.asarray(values)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _lists(array: np.ndarray) -> pa.Array:
    """Return an array (n, D) as a column of lists, without a copy if its rows are consecutive."""
    return pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), array.shape[1])


def _without_views(table: pa.Table) -> pa.Table:
    """Return the table with text in the layout that files have; polars' is another one."""
    for number, field in enumerate(table.schema):
        table = table.set_column(number, field.name, _without_view(table.column(number)))
    return table


def _without_view(column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type
    if pa.types.is_string_view(kind):
        return column.cast(pa.large_string())
    if pa.types.is_dictionary(kind) and pa.types.is_string_view(kind.value_type):
        chunks = [
            pa.DictionaryArray.from_arrays(chunk.indices, chunk.dictionary.cast(pa.large_string()))
            for chunk in column.chunks
        ]
        return pa.chunked_array(chunks, pa.dictionary(kind.index_type, pa.large_string()))
    return column
