"""Labels, as class indices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from distsgd.core.names import shortened
from distsgd.data.columns import MissingLabel, RowError
from distsgd.data.schema import InputSchema
from distsgd.errors import DataError

MAX_CLASSES = 65_536
MAX_LABEL = 2**31

MAX_LABEL_LENGTH = 1_000
"""Characters of a label: classes are kept in an array whose entries are all as long as the longest one."""

REMEDY = "labels are integers from 0, or strings: leave unlabelled rows out, or number the classes from 0"

REGRESSION = (
    "this looks like regression: set model.loss=squared to predict the numbers, choose another column with data.label, "
    "or make a few classes of them"
)

SOME_VALUES = 50
"""So many different labels are nothing to wonder about."""

NAMED = 5
"""Classes that a line names."""

MANY = 0.05
"""Share of the rows above which so many different numbers do not look like classes."""

Label = int | str


def _alike(labels: Sequence[str], name: str) -> tuple[str, ...]:
    """Return a warning of labels that differ in spaces or in upper and lower case alone."""
    groups: dict[str, list[str]] = {}
    for label in labels:
        groups.setdefault(" ".join(label.split()).casefold(), []).append(label)
    alike = next((sorted(group) for group in groups.values() if len(group) > 1), None)
    if alike is None:
        return ()
    listed = " and ".join(repr(shortened(label)) for label in alike[:2])
    return (f"warning: labels {listed} of column {shortened(name)!r} are different classes; are they meant to be one?",)


def lacking(y: NDArray[np.int64], y_val: NDArray[np.int64] | None, classes: NDArray[Any]) -> tuple[str, ...]:
    """Return a line on the classes (C,) that training rows y (N,) lack, and one on those that held-out rows lack."""
    parts = ((y, "warning: ", "training", "the model will hardly predict"), (y_val, "", "held-out", "nothing measures"))
    found = []
    for part, mark, rows, effect in parts:
        absent = [] if part is None else np.flatnonzero(np.bincount(part, minlength=len(classes)) == 0).tolist()
        if absent:
            named = ", ".join(repr(classes[number].item()) for number in absent[:NAMED])
            more = f" and {len(absent) - NAMED:,} more" if len(absent) > NAMED else ""
            what = "class" if len(absent) == 1 else "classes"
            found.append(f"{mark}the {rows} rows have no row of {what} {named}{more}, which {effect}")
    return tuple(found)


class LabelEncoder:
    """Gives each distinct label a code: a class index if the classes are known, else in order of appearance.

    With `classes` (C,) known, any other label is refused, for the reason that `unknown` gives.
    """

    def __init__(self, name: str, classes: NDArray[Any] | None, unknown: str) -> None:
        self._name = name
        self._classes = classes
        self._unknown = unknown
        self.notices: tuple[str, ...] = ()
        """What looks odd about the labels, once `finish` has been called."""
        self._from_floats = False
        self._known = classes is not None
        self._codes: dict[Label, int] = {} if classes is None else {v: i for i, v in enumerate(classes.tolist())}

    @classmethod
    def for_training(cls, schema: InputSchema, count: int | None) -> LabelEncoder:
        """Return an encoder for the classes 0 to count-1 or, without a count, for whatever labels there are."""
        if count is None:
            return cls(schema.label, None, "")
        if schema.label_kind != "integer":
            raise DataError(
                f"data.classes is {count}, and column {shortened(schema.label)!r} is of strings; leave data.classes "
                "unset"
            )
        if count > MAX_CLASSES:
            raise DataError(f"data.classes is {count}; expected at most {MAX_CLASSES}")
        return cls(schema.label, np.arange(count), f"is out of range; data.classes={count} expects 0 to {count - 1}")

    @classmethod
    def for_held_out(cls, schema: InputSchema, classes: NDArray[Any]) -> LabelEncoder:
        """Return an encoder for the training rows' classes (C,)."""
        return cls(
            schema.label, classes, "is not among the training rows'; leave that row out, or add such rows to both"
        )

    @classmethod
    def for_model(cls, schema: InputSchema, classes: NDArray[Any]) -> LabelEncoder:
        """Return an encoder for the classes (C,) of a trained model."""
        return cls(schema.label, classes, "is not among the model's classes; leave that row out")

    def empty(self, count: int) -> NDArray[np.int64]:
        """See TargetEncoder.empty."""
        return np.empty(count, np.int64)

    def encode_rows(self, rows: pa.RecordBatch) -> NDArray[np.int64]:
        """See TargetEncoder.encode_rows."""
        return self.encode(rows.column(self._name))

    def encode(self, column: pa.Array) -> NDArray[np.int64]:
        """Return the codes (n,) of a batch's label column; RowError for a label that cannot be one."""
        if isinstance(column, pa.DictionaryArray):
            column = column.dictionary_decode()  # which turns a null among the dictionary's values into a null
        if column.null_count:
            row = np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0]
            raise MissingLabel(int(row), f"null in the label column {shortened(self._name)!r}")
        if pa.types.is_boolean(column.type):
            column = column.cast(pa.uint8())
        if pa.types.is_floating(column.type) or pa.types.is_decimal(column.type):
            column = self._whole(column.cast(pa.float64()))
        if pa.types.is_integer(column.type):
            values = column.to_numpy()
            self._check_range(values)
            distinct, first, inverse = np.unique(values, return_index=True, return_inverse=True)
            labels: list[Label] = distinct.tolist()
        else:
            encoded = column.dictionary_encode()
            inverse, labels = encoded.indices.to_numpy(), encoded.dictionary.to_pylist()
            first = np.unique(inverse, return_index=True)[1]
        # By row, so that the first bad row is named.
        by_row = np.argsort(first)
        table = np.empty(len(labels), np.int64)
        for number in by_row.tolist():
            table[number] = self._code(labels[number], int(first[number]))
        return table[inverse]

    def _whole(self, column: pa.Array) -> pa.Array:
        """Return labels that are floats as integers, which they have to be; RowError if one is not."""
        values = column.to_numpy()
        missing = np.isnan(values)
        if missing.any():
            raise MissingLabel(int(np.argmax(missing)), f"nan in the label column {shortened(self._name)!r}")
        broken = values != np.rint(values)
        if broken.any():
            row = int(np.argmax(broken))
            name = shortened(self._name)
            raise RowError(
                row,
                f"label {values[row]:g} in column {name!r} is not a whole number: {REGRESSION}",
                (
                    "make a few classes of the numbers, for example",
                    f"d[{self._name!r}] = pd.qcut(d[{self._name!r}], 4, labels=False, duplicates='drop')",
                ),
            )
        self._check_range(values)
        self._from_floats = True
        return pa.array(values.astype(np.int64))

    def _check_count(self, rows: int, location: str) -> None:
        """Refuse labels of which there are nearly as many as rows, and point out numbers of which there are many."""
        labels = list(self._codes)
        count = len(labels)
        if self._known or count <= SOME_VALUES:
            return
        numbers = isinstance(labels[0], int)
        found = f"{location}: column {shortened(self._name)!r} has {count:,} different labels in {rows:,} rows"
        if count == rows:
            hint = f" or, if it is a measured number, {REGRESSION}" if numbers else ""
            raise DataError(f"{found}: is it an identifier? Name the label column with data.label{hint}")
        share = count / rows
        if numbers and (share > 0.5 or (self._from_floats and share > MANY)):
            raise DataError(f"{found}: {REGRESSION}; if they are classes, store them as text")
        if numbers and share > MANY:
            self.notices = (f"warning: {found}: {REGRESSION}",)

    def _check_range(self, values: NDArray[Any]) -> None:
        bad = np.flatnonzero((values < 0) | (values >= MAX_LABEL))
        if bad.size:
            raise RowError(
                int(bad[0]),
                f"label {values[bad[0]]} in column {shortened(self._name)!r} is out of range; {REMEDY}",
                ("number the classes from 0", f"d[{self._name!r}] = pd.factorize(d[{self._name!r}], sort=True)[0]"),
            )

    def _code(self, label: Label, row: int) -> int:
        code = self._codes.get(label)
        if code is not None:
            return code
        if self._classes is not None:
            raise RowError(row, f"label {label!r} in column {shortened(self._name)!r} {self._unknown}")
        if isinstance(label, str) and (not label or label.endswith("\0")):
            raise MissingLabel(row, f"empty label in column {shortened(self._name)!r}")
        if isinstance(label, str) and len(label) > MAX_LABEL_LENGTH:
            raise RowError(
                row,
                f"a label of {len(label):,} characters in column {shortened(self._name)!r}, which begins with "
                f"{label[:40]!r}; expected at most {MAX_LABEL_LENGTH:,}: is it free text? Name the label column "
                "with data.label",
            )
        if len(self._codes) == MAX_CLASSES:
            raise RowError(
                row,
                f"column {shortened(self._name)!r} holds more than {MAX_CLASSES} distinct labels here; is it an "
                "identifier?",
            )
        self._codes[label] = len(self._codes)
        return self._codes[label]

    def finish(self, parts: Sequence[NDArray[np.int64]], location: str) -> NDArray[Any]:
        """Return the sorted classes (C,), and turn the codes in `parts` into class indices, in place.

        DataError if all labels are the same.
        """
        if self._classes is None:
            self._check_count(sum(len(y) for y in parts), location)
            labels = list(self._codes)
            order = sorted(range(len(labels)), key=lambda code: labels[code])
            ranks = np.empty(len(labels), np.int64)
            ranks[order] = np.arange(len(labels))
            for y in parts:
                for start in range(0, len(y), 2**20):
                    y[start : start + 2**20] = ranks[y[start : start + 2**20]]
            self._classes = np.array([labels[code] for code in order])
            self.notices += _alike([label for label in labels if isinstance(label, str)], self._name)
        if all((y == parts[0][0]).all() for y in parts):
            label = self._classes[parts[0][0]].item()
            raise DataError(
                f"{location}: every label in column {shortened(self._name)!r} is {label!r}; expected two classes "
                "at least: choose another column with data.label"
            )
        return self._classes
