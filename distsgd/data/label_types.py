"""What the columns of labels and of weights have to hold: types, lists, and the length of these."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pyarrow as pa

from distsgd.core.losses import Target
from distsgd.core.names import shortened
from distsgd.data.datafile import DataFile, doubt, row_error
from distsgd.data.kinds import is_list, is_number, is_text, label_type, plain, values_type
from distsgd.errors import DataError

READ_ROWS = 65_536
"""Rows of a column that are read at a time."""

FOR_CLASSES = "set model.loss=softmax, which takes text as classes"
"""What to do about text where numbers are expected."""


def label_kind(
    file: DataFile, labels: Sequence[str], target: Target
) -> tuple[Literal["integer", "string", "labels", "numbers"], int | None]:
    """Return what the labels are, and the length of their lists if they are some."""
    if target != "class":
        return array_kind(file, labels, target)
    (label,) = labels
    found = file.schema.field(label).type
    kind = label_type(found)
    if is_list(found) and is_number(values_type(found)):
        raise DataError(
            f"{file.path}: label column {shortened(label)!r} is {str(found)[:100]}, and a label is one class for each "
            "row: set model.loss=logistic for independent labels of 0 and 1, or model.loss=squared for numbers; of "
            "one-hot labels take argmax(axis=1), of a single column ravel()"
        )
    if kind is None:
        raise DataError(
            f"{file.path}: label column {shortened(label)!r} is {str(found)[:100]}; labels are integers or strings: "
            "cast it, or choose another column with data.label"
        )
    return kind, None


def array_kind(
    file: DataFile, labels: Sequence[str], target: Literal["labels", "numbers"]
) -> tuple[Literal["labels", "numbers"], int | None]:
    """Return the kind of labels that are single numbers in their columns, or lists in the only one."""
    wanted = "labels are 0 or 1 (model.loss=logistic)" if target == "labels" else "model.loss=squared predicts numbers"
    several = len(labels) > 1
    otherwise = f", {'or ' * several}choose another column with data.label" + f", or {FOR_CLASSES}" * (not several)
    for label in labels:
        found = file.schema.field(label).type
        text = _first_text(file, label)
        if text is not None:
            row, value = text
            raise row_error(
                file,
                row,
                f"label column {shortened(label)!r} is {str(found)[:100]}, and {wanted}; here it holds {value[:40]!r}: "
                f"correct it{otherwise}",
            )
        if not is_number(values_type(found)):
            remedy = f"cast it{otherwise}" if is_text(found) else "cast it, or choose another column with data.label"
            raise DataError(
                f"{file.path}: label column {shortened(label)!r} is {str(found)[:100]}, and {wanted}: "
                f"{doubt(file, label) or remedy}"
            )
        if is_list(found) and len(labels) > 1:
            raise DataError(
                f"{file.path}: label column {shortened(label)!r} holds lists, and data.label names {len(labels)} "
                "columns; name that column alone, or columns of single values"
            )
    return target, list_width(file, labels[0]) if is_list(file.schema.field(labels[0]).type) else None


def _first_text(file: DataFile, name: str) -> tuple[int, str] | None:
    """Return the first value of a column of text that is no number, and its row; None if there is none."""
    kind = file.schema.field(name).type
    if not is_text(kind.value_type if pa.types.is_dictionary(kind) else kind) or doubt(file, name):
        return None
    start = 0
    for batch in file.batches([name], READ_ROWS):
        for row, value in enumerate(batch.column(name).to_pylist()):
            if value is not None and not _is_number(value):
                return start + row, value
        start += batch.num_rows
    return None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def check_weights(file: DataFile, name: str) -> None:
    """Refuse a column of weights that does not hold numbers."""
    kind = file.schema.field(name).type
    if not is_number(kind):
        reason = doubt(file, name)
        raise DataError(
            f"{file.path}: column {shortened(name)!r} is {str(kind)[:100]}, and weights are numbers"
            + (f": {reason}" if reason else "; cast it, or name another column in data.weight")
        )


def list_width(file: DataFile, column: str) -> int:
    """Return the length of a column's lists, by its type or else by its first row."""
    kind = plain(file.schema.field(column).type)
    if pa.types.is_fixed_size_list(kind):
        width = int(kind.list_size)
    else:
        first = next((b.column(column)[0] for b in file.batches([column], 1) if b.num_rows), None)
        width = len(first) if first is not None and first.is_valid else 0
    if width < 1:
        raise DataError(f"{file.path}: the lists of column {shortened(column)!r} hold no values; expected one at least")
    return width
