"""Which columns are features, what type they are stored as, and their values as arrays of numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from distsgd.data.datafile import DataFile, doubt
from distsgd.data.dataset import InputSchema
from distsgd.errors import DataError, nearest

DROP = "cast it in the file, drop it, or name the feature columns in data.features"


def resolve(file: DataFile, label: str, features: tuple[str, ...] | None, *, labelled: bool = True) -> InputSchema:
    """Return the schema of a file: the columns `features` in that order, or by default all but the label.

    Without `labelled` the label column need not be there. DataError if a column is missing, appears twice or is of a
    type that cannot be used.
    """
    names = file.schema.names
    counts = Counter(names)
    for name in (*([label] if labelled else []), *(features if features is not None else names)):
        if counts[name] > 1:
            raise DataError(f"{file.path}: {counts[name]} columns have the name {name!r}; rename all but one")
    if labelled and label not in names:
        raise DataError(
            f"{file.path}: no column {label!r}{nearest(label, names)} for data.label; the columns are {_listing(names)}"
        )
    if features is None:
        features = tuple(name for name in names if name != label)
    _check_chosen(file, label, features)
    kinds = [_values_type(file.schema.field(name).type) for name in features]
    is_list = [_is_list(file.schema.field(name).type) for name in features]
    for name, kind, listed in zip(features, kinds, is_list, strict=True):
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
            found = file.schema.field(name).type
            reason = doubt(file, name)
            if reason is not None:
                raise DataError(f"{file.path}: column {name!r} is text, and features are numbers: {reason}")
            raise DataError(f"{file.path}: column {name!r} is {found}, and features are numbers; {DROP}")
        if listed and len(features) > 1:
            raise DataError(
                f"{file.path}: column {name!r} holds lists, and there are {len(features) - 1} more feature columns; "
                "features are one list column or many columns of numbers: choose with data.features"
            )
    types = tuple(np.dtype(kind.to_pandas_dtype()).name for kind in kinds)
    width = _list_width(file, features[0]) if is_list[0] else None
    return InputSchema(features, types, width, label, _label_kind(file, label) if labelled else None)


def _listing(names: Sequence[str]) -> str:
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(repr(name) for name in names[:8]) + more


def _check_chosen(file: DataFile, label: str, features: tuple[str, ...]) -> None:
    """Refuse a choice of feature columns that is empty, repeats one, or names the label or what is not there."""
    names = dict.fromkeys(file.schema.names)
    chosen = Counter(features)
    for name in features:
        if name == label:
            raise DataError(f"{file.path}: data.features names {name!r}, which is the label; leave it out")
        if name not in names:
            others = [known for known in names if known != label]
            raise DataError(
                f"{file.path}: no column {name!r}{nearest(name, others)} for the features; "
                f"the columns are {_listing(list(names))}"
            )
        if chosen[name] > 1:
            raise DataError(f"data.features names {name!r} twice; name it once")
    if not features:
        raise DataError(f"{file.path}: no feature column; expected at least one beside the label {label!r}")


def _plain(kind: pa.DataType) -> pa.DataType:
    """Return an extension type's storage type (a fixed-shape tensor's is a list), any other type as it is."""
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def _is_list(kind: pa.DataType) -> bool:
    kind = _plain(kind)
    return bool(pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _values_type(kind: pa.DataType) -> pa.DataType:
    return _plain(kind).value_type if _is_list(kind) else kind


def _label_kind(file: DataFile, label: str) -> Literal["integer", "string"]:
    found = kind = file.schema.field(label).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return "integer"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return "string"
    raise DataError(
        f"{file.path}: label column {label!r} is {found}; labels are integers or strings: cast it, or choose another "
        "column with data.label"
    )


def _list_width(file: DataFile, column: str) -> int:
    """Return the length of a column's lists, by its type or else by its first row."""
    kind = _plain(file.schema.field(column).type)
    if pa.types.is_fixed_size_list(kind):
        width = int(kind.list_size)
    else:
        first = next((b.column(column)[0] for b in file.batches([column], 1) if b.num_rows), None)
        width = len(first) if first is not None and first.is_valid else 0
    if width < 1:
        raise DataError(f"{file.path}: the lists of column {column!r} hold no values; expected one for each feature")
    return width


def check_same(file: DataFile, schema: InputSchema, expected: InputSchema, first: str) -> None:
    """Refuse a file whose columns are not those of `first`; their order may differ."""
    known, found = set(expected.columns), set(schema.columns)
    for name in schema.columns:
        if name not in known:
            raise DataError(
                f"{file.path}: column {name!r} is not in {first}; expected the same columns: drop it, or name the "
                "feature columns in data.features"
            )
    for name in expected.columns:
        if name not in found:
            raise DataError(f"{file.path}: no column {name!r}, which {first} has; expected the same columns")
    if schema.width != expected.width:
        raise DataError(
            f"{file.path}: column {expected.columns[0]!r} holds {_shape(schema.width)}, in {first} "
            f"{_shape(expected.width)}; expected the same"
        )
    if schema.labelled and schema.label_kind != expected.label_kind:
        raise DataError(
            f"{file.path}: label column {schema.label!r} is of {schema.label_kind}s, in {first} of "
            f"{expected.label_kind}s; give it one type in all files"
        )


def check_types(
    file: DataFile, schema: InputSchema, expected: InputSchema, first: str, storage: np.dtype[Any] | None
) -> None:
    """Refuse a file whose features are not of the types of `first`.

    With `storage`, the type that the training rows are kept as, it is enough that this can hold them.
    """
    found = dict(zip(schema.columns, schema.types, strict=True))
    for name, kind in zip(expected.columns, expected.types, strict=True):
        fits = found[name] == kind if storage is None else storage.kind == "f" or np.can_cast(found[name], storage)
        if not fits:
            raise DataError(
                f"{file.path}: column {name!r} is {found[name]}, in {first} {kind}; give it one type everywhere"
            )


def in_order_of(schema: InputSchema, expected: InputSchema) -> InputSchema:
    """Return the schema with its feature columns in the order of another one that has the same."""
    types = dict(zip(schema.columns, schema.types, strict=True))
    return replace(schema, columns=expected.columns, types=tuple(types[name] for name in expected.columns))


def _shape(width: int | None) -> str:
    return "single numbers" if width is None else f"lists of {width}"


class RowError(Exception):
    """A value that cannot be used, by its row in the batch; the caller, which knows the file, raises a DataError."""

    def __init__(self, row: int, problem: str) -> None:
        super().__init__(problem)
        self.row = row


def feature_block(batch: pa.RecordBatch, schema: InputSchema, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return a batch's features as (n, D) numbers: of `dtype`, or a list column's own type, without a copy.

    RowError for the first null, NaN or infinity, of the columns in their order.
    """
    if schema.width is not None:
        block = _list_values(batch.column(schema.columns[0]), schema.columns[0], schema.width)
    else:
        block = np.empty((batch.num_rows, len(schema.columns)), dtype)
        for number, name in enumerate(schema.columns):
            column = batch.column(name)
            if column.null_count:
                raise RowError(_first_null(column), f"null in column {name!r}")
            block[:, number] = column.to_numpy(zero_copy_only=False)
    if block.dtype.kind == "f" and not np.isfinite(block).all():
        row, number = np.argwhere(~np.isfinite(block))[0]
        raise RowError(int(row), f"{block[row, number]} in column {schema.feature_names[number]!r}")
    return block


def _list_values(column: pa.Array, name: str, width: int) -> NDArray[Any]:
    """Return a list column's values (n, D); RowError for a null, or a list of another length."""
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if column.null_count:
        raise RowError(_first_null(column), f"null in column {name!r}")
    if not pa.types.is_fixed_size_list(column.type):
        lengths = column.value_lengths().to_numpy()
        wrong = np.flatnonzero(lengths != width)
        if wrong.size:
            raise RowError(int(wrong[0]), f"a list of {lengths[wrong[0]]} values in column {name!r}, not {width}")
    values = column.flatten()
    if values.null_count:
        place = _first_null(values)
        raise RowError(place // width, f"null in column {name!r}, element {place % width}")
    return np.asarray(values.to_numpy(zero_copy_only=False)).reshape(-1, width)


def _first_null(column: pa.Array) -> int:
    return int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])


def storage_dtype(schema: InputSchema) -> np.dtype[Any]:
    """Return what rows are kept as in memory: a common integer type of at most two bytes, or else float32."""
    kinds = [np.dtype(np.uint8) if kind == "bool" else np.dtype(kind) for kind in set(schema.types)]
    common = np.result_type(*kinds)
    if all(kind.kind in "iu" for kind in kinds) and common.itemsize <= 2:
        return common
    return np.dtype(np.float32)


def fits_float32(schema: InputSchema) -> bool:
    """Return whether float32 holds every value of the feature columns' types exactly."""
    return all(np.can_cast(np.dtype(kind), np.float32) for kind in set(schema.types))
