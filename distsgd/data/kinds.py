"""What the Arrow types of columns are to a model: numbers, categories, lists, labels."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pyarrow as pa


def plain(kind: pa.DataType) -> pa.DataType:
    """Return an extension type's storage type (a fixed-shape tensor's is a list), any other type as it is."""
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def is_list(kind: pa.DataType) -> bool:
    """Return whether a column holds lists."""
    kind = plain(kind)
    return bool(pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind))


def values_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of a list's elements, any other type as it is."""
    return plain(kind).value_type if is_list(kind) else kind


def is_number(kind: pa.DataType) -> bool:
    """Return whether values are numbers; booleans count as such."""
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal)
    return any(test(kind) for test in tests)


def is_text(kind: pa.DataType) -> bool:
    """Return whether values are text."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_category(kind: pa.DataType) -> bool:
    """Return whether a column's values are categories: text, or a dictionary of text, integers or booleans."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
        return is_text(kind) or bool(pa.types.is_integer(kind) or pa.types.is_boolean(kind))
    return is_text(kind)


def numpy_name(kind: pa.DataType) -> str:
    """Return the NumPy type of a column's values; `str` for text, `int64` for categories that are integers."""
    if pa.types.is_dictionary(kind):
        value = kind.value_type
        return "str" if is_text(value) else "bool" if pa.types.is_boolean(value) else "int64"
    if is_text(kind):
        return "str"
    return "float64" if pa.types.is_decimal(kind) else np.dtype(kind.to_pandas_dtype()).name


def label_type(found: pa.DataType) -> Literal["integer", "string"] | None:
    """Return what labels of a type are; None if it cannot be one of labels."""
    kind = found.value_type if pa.types.is_dictionary(found) else found
    if is_number(kind):
        return "integer"
    return "string" if is_text(kind) else None
