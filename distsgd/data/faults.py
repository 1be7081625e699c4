"""Values that cannot be used: which rows of a batch have them, and what the first of them is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from distsgd.core.names import shortened
from distsgd.data.columns import RowError, coded, numbers
from distsgd.data.kinds import is_text
from distsgd.data.labels import MAX_LABEL, LabelEncoder
from distsgd.data.schema import InputSchema
from distsgd.data.targets import ArrayTargets, TargetEncoder
from distsgd.errors import counted

Mask = NDArray[np.bool_]

Said = tuple[str, tuple[str, str] | None]
"""What is said of a row, and what would repair it, as RowError has it."""


@dataclass(frozen=True)
class Fault:
    """Rows of a batch whose value in a column cannot be used."""

    kind: str
    """`missing`, `infinite`, `length` of a feature, `label` or `unlabelled`."""
    column: str
    rows: Mask
    """(n,)"""
    text: Callable[[int], Said]
    """Returns what is said of one of these rows, and what would repair it."""
    detail: str = ""
    """What is wrong, where that may be several things."""


def missing_labels(column: pa.Array) -> Mask:
    """Return which labels (n,) are missing, or empty text."""
    if isinstance(column, pa.DictionaryArray):
        column = column.dictionary_decode()
    missing = column.is_null(nan_is_null=True)
    if is_text(column.type):
        missing = pc.or_(missing, pc.fill_null(pc.equal(column, ""), False))
    return np.asarray(missing.to_numpy(zero_copy_only=False))


def without_labels(table: pa.RecordBatch, schema: InputSchema) -> Mask:
    """Return which rows (n,) of a batch lack a label."""
    return np.asarray(np.any([missing_labels(table.column(label)) for label in schema.labels], axis=0))


def feature_faults(table: pa.RecordBatch, schema: InputSchema, *, filled: bool) -> list[Fault]:
    """Return the features that are missing, unless such are `filled`, infinite, or lists of another length."""
    found = []
    for name in schema.columns:
        values = table.column(name)
        if isinstance(values, pa.ExtensionArray):
            values = values.storage
        if name in schema.categorical:
            found += [] if filled else [_missing(name, coded(values)[0] < 0, values)]
        elif schema.width is None:
            each = _floats(values)
            found += [] if filled else [_missing(name, np.isnan(each), values)]
            found.append(_infinite(name, np.isinf(each)[:, None], each[:, None]))
        else:
            found += _of_lists(name, values, schema.width, filled=filled)
    return [fault for fault in found if fault.rows.any()]


def _floats(values: pa.Array) -> NDArray[Any]:
    each = numbers(values)
    return each if each.dtype.kind == "f" else np.zeros(len(each))  # integers are neither missing nor infinite


def _missing(name: str, rows: Mask, values: pa.Array) -> Fault:
    shown = repr(shortened(name))

    def text(row: int) -> Said:
        return f"{'nan' if values[row].is_valid else 'null'} in column {shown}", None

    return Fault("missing", name, rows, text)


def _infinite(name: str, bad: Mask, values: NDArray[Any], width: int | None = None) -> Fault:
    """Return the rows of which some of the values (n, D) are infinite, as marked in `bad` (n, D)."""

    def text(row: int) -> Said:
        place = int(np.argmax(bad[row]))
        shown = repr(shortened(name if width is None else f"{name}[{place}]"))
        return f"{values[row, place]} in column {shown}, expected a finite number", None

    return Fault("infinite", name, np.asarray(bad.any(axis=1)), text)


def _of_lists(name: str, values: pa.Array, width: int, *, filled: bool) -> list[Fault]:
    null = np.asarray(values.is_null().to_numpy(zero_copy_only=False))
    wrong = np.zeros(len(values), bool)
    if not pa.types.is_fixed_size_list(values.type):
        wrong = values.value_lengths().fill_null(width).to_numpy(zero_copy_only=False) != width
    good = ~(null | wrong)
    elements = values.filter(pa.array(good)).flatten()
    each = np.zeros((len(values), width))
    absent = np.zeros((len(values), width), bool)
    with np.errstate(invalid="ignore"):  # of a signalling NaN
        each[good] = _floats(elements).reshape(-1, width)
    absent[good] = elements.is_null().to_numpy(zero_copy_only=False).reshape(-1, width)
    nan, shown = np.isnan(each), repr(shortened(name))

    def text(row: int) -> Said:
        place = int(np.argmax(nan[row]))
        if null[row]:
            return f"null in column {shown}", None
        if absent[row, place]:
            return f"null in column {shown}, element {place}", None
        return f"nan in column {shortened(f'{name}[{place}]')!r}", None

    def of_length(row: int) -> Said:
        return f"a list of {counted(len(values[row]), 'value')} in column {shown}, not {width}", None

    return [
        Fault("missing", name, null if filled else null | nan.any(axis=1), text),
        Fault("length", name, wrong, of_length),
        _infinite(name, np.isinf(each), each, width),
    ]


def label_faults(table: pa.RecordBatch, schema: InputSchema, encoder: TargetEncoder, classes: Any) -> list[Fault]:
    """Return the labels that are missing, and those that cannot be one; `classes` (C,) are the known ones, or None."""
    lacking = without_labels(table, schema)

    def text(row: int) -> Said:
        try:
            encoder.encode_rows(table.slice(row, 1))
        except RowError as problem:
            return str(problem), problem.repair
        return "", None

    found = [Fault("unlabelled", schema.label, lacking, text)]
    for name in schema.labels:
        column = table.column(name)
        is_class = isinstance(encoder, LabelEncoder)
        kinds = _bad_classes(column, classes) if is_class else {"number": _bad_numbers(column, schema)}
        found += [Fault("label", name, rows & ~lacking, text, detail) for detail, rows in kinds.items()]
    return [fault for fault in found if fault.rows.any()]


def _bad_classes(column: pa.Array, classes: Any) -> dict[str, Mask]:
    """Return, for each thing that can be wrong with classes, which rows (n,) it is wrong with."""
    if isinstance(column, pa.DictionaryArray):
        column = column.dictionary_decode()
    if is_text(column.type):
        if classes is None:
            return {}
        known = pc.is_in(column, value_set=pa.array(classes.tolist(), column.type))
        return {"unknown": ~np.asarray(known.to_numpy(zero_copy_only=False))}
    values = np.asarray(numbers(column))
    broken = np.zeros(len(values), bool)
    if values.dtype.kind == "f":
        values = values.astype(np.float64)  # as an encoder does: half precision does not hold MAX_LABEL
        broken = values != np.rint(values)
    outside = ((values < 0) | (values >= MAX_LABEL)) & ~broken
    unknown = np.zeros(len(values), bool) if classes is None else ~np.isin(values, classes) & ~broken & ~outside
    return {"broken": broken, "outside": outside, "unknown": unknown}


def _bad_numbers(column: pa.Array, schema: InputSchema) -> Mask:
    """Return which rows (n,) hold something else than the 0 and 1, or the numbers that float32 holds, of targets."""
    if schema.label_width is not None:
        return np.zeros(len(column), bool)  # of lists the first fault is told where it is met
    values = np.asarray(numbers(column), np.float64)
    if schema.label_kind == "labels":
        return np.asarray((values != 0) & (values != 1))
    return np.asarray(~(np.abs(values) <= np.finfo(np.float32).max))


def encoder_for(schema: InputSchema, classes: Any, count: int | None) -> TargetEncoder:
    """Return an encoder for the labels of training rows, or of held-out ones, whose `classes` (C,) are known."""
    if schema.label_kind in ("labels", "numbers"):
        return ArrayTargets(schema)
    return LabelEncoder.for_training(schema, count) if classes is None else LabelEncoder.for_held_out(schema, classes)
