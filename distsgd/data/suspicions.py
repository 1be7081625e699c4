"""Columns that look like a mistake: an index, a row number, a constant, one that determines the label.

All columns are looked at in a few evenly spaced training rows first, and only those that look suspicious there in many.
Nothing here changes the rows. The elements of a list column are not looked at: they have no names of their own, and a
pixel may well be constant.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distsgd.core.inputs import Inputs
from distsgd.core.names import shortened
from distsgd.data.rows import Rows

FIRST_ROWS, FIRST_VALUES = 2000, 2**20
"""Maximum number of rows, and of values, in the first look at all columns: it takes some milliseconds."""

ROWS, VALUES = 100_000, 2**24
"""The same in the second look at a few columns."""

LEAST_ROWS = 30
"""Minimum number of rows to judge columns by their values: fewer may be in order, or all the same, by chance."""

LEAK_ROWS, LEAK_MINORITY = 200, 20
"""Minimum number of rows, and of rows outside the most frequent class, to say that a column determines the label."""

DETERMINED = 0.98
"""Fraction of the rows outside the most frequent class that a column alone has to explain to determine the label."""

GOOD = 0.9
"""If another column explains more than this fraction, the classes are just easy to tell apart."""

FEW_CHANGES = 0.3
"""Changes of the label along a sorted column, as a fraction of those by chance, up to which it is looked at again."""

LOOKED_AGAIN = 32
"""Maximum number of columns that are tested for determining the label."""

RUN = 5
"""Minimum number of rows with one label, next to one another along a sorted column, that are not taken for chance."""

NAMED = 5
"""Maximum number of columns that one warning names."""

REMEDY = "leave out what is no feature with data.exclude"
"""What to do about a column that is no feature."""

IN_TIME = "is it known before the label is?"
"""What to ask about a column that determines the label."""

INDEX = re.compile(r"unnamed: ?\d+|__index_level_\d+__|row[ _]?(number|num|no|nr|index|id)", re.IGNORECASE)
"""Names that only an index has."""

IDENTIFIER = re.compile(r"index|level_\d+|id|uuid|row|no|nr|#|", re.IGNORECASE)
"""Names that an index may have: one with a value of its own in every row."""


CLASS = (np.dtype(np.int64), ())
"""The target of rows that have a class each."""


@dataclass(frozen=True)
class Sample:
    """Columns in evenly spaced training rows, with the classes."""

    names: tuple[str, ...]
    X: NDArray[np.float32]
    """(n, K): numbers as they are stored; the place of a category among the categories, -1 for none."""
    y: NDArray[np.int64]
    """(n,); zeros if targets are no classes, which no column then determines."""


def suspicions(rows: Rows, inputs: Inputs) -> tuple[str, ...]:
    """Return a warning for each kind of suspicious columns of the training rows."""
    places = _places(inputs)
    if not places:
        return ()
    first = _sample(rows, places, min(FIRST_ROWS, max(1, FIRST_VALUES // rows.features)))
    index = [name for name, column in zip(first.names, first.X.T, strict=True) if _is_index(name, column)]
    ordered, leaking, constant = _by_values(rows, places, first) if len(first.y) >= LEAST_ROWS else ([], [], [])
    ordered = [name for name in ordered if name not in index]
    leaking = [name for name in leaking if name not in (*index, *ordered)]
    found = (
        _warning(index, "looks like an index", "look like an index", REMEDY),
        _warning(ordered, "looks like a row number", "look like row numbers", REMEDY),
        _warning(leaking, "alone determines the label", "each determine the label alone", f"{IN_TIME} {REMEDY}"),
        _warning(constant, "never changes", "never change", "what is the same in all training rows teaches nothing"),
    )
    return tuple(text for text in found if text is not None)


def _warning(names: list[str], one: str, many: str, more: str) -> str | None:
    """Return a line on the columns, if there are any."""
    if not names:
        return None
    if len(names) == 1:
        return f"warning: column {shortened(names[0])!r} {one}; {more}"
    rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"warning: columns {', '.join(repr(shortened(name)) for name in names[:NAMED])}{rest} {many}; {more}"


def _is_index(name: str, column: NDArray[np.float32]) -> bool:
    """Return whether a column's name is that of an index, or may be, and each of its values is another one."""
    if INDEX.fullmatch(name):
        return True
    return IDENTIFIER.fullmatch(name) is not None and len(np.unique(column)) == len(column) >= LEAST_ROWS


def _by_values(
    rows: Rows, places: Sequence[tuple[str, slice]], first: Sample
) -> tuple[list[str], list[str], list[str]]:
    """Return the columns that are in order, that determine the label, and that are constant."""
    suspects = _constant(first.X) | _ordered(first.X) | _few_changes(first)
    again = [place for place, suspect in zip(places, suspects, strict=True) if suspect]
    if not again:
        return [], [], []
    second = _sample(rows, again, min(ROWS, VALUES // len(again)))
    constant = [place for place, same in zip(again, _constant(second.X), strict=True) if same]
    return _chosen(second.names, _ordered(second.X)), _leaks(second), _really_constant(rows, constant)


def _places(inputs: Inputs) -> list[tuple[str, slice]]:
    """Return name and features of each column, lists left out."""
    found, start = [], 0
    for column in inputs.columns:
        if column.kind != "list":
            found.append((column.name, slice(start, start + column.features)))
        start += column.features
    return found


def _sample(rows: Rows, places: Sequence[tuple[str, slice]], count: int) -> Sample:
    """Return columns in at most `count` rows, in the order of the rows."""
    index = np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(np.int64))
    X, y = np.empty((len(index), len(places)), np.float32), np.zeros(len(index), np.int64)
    for block, part in _blocks(rows, index, y):
        for number, (_, place) in enumerate(places):
            X[block, number] = part[:, place.start] if place.stop - place.start == 1 else _category(part[:, place])
    return Sample(tuple(name for name, _ in places), X, y)


def _blocks(rows: Rows, index: NDArray[np.int64], y: NDArray[np.int64]) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Yield the rows `index` (n,) block by block, as they are stored, and fill `y` (n,)."""
    size = max(1, min(len(index), FIRST_VALUES // rows.features))
    stored = np.empty((size, rows.features), rows.dtype)
    for start in range(0, len(index), size):
        block = slice(start, min(start + size, len(index)))
        part = stored[: block.stop - start]
        rows.gather(index[block], part, y[block] if rows.target == CLASS else None)
        yield block, part


def _category(X: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return which of a category's features (n, k) is the largest (n,), wherever it is larger than another."""
    return np.where(X.max(axis=1) > X.min(axis=1), X.argmax(axis=1), -1)


def _chosen(names: tuple[str, ...], mask: NDArray[np.bool_]) -> list[str]:
    return [name for name, chosen in zip(names, mask, strict=True) if chosen]


def _constant(X: NDArray[np.float32]) -> NDArray[np.bool_]:
    return np.asarray((X[:1] == X).all(axis=0))


def _ordered(X: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return which columns rise, or fall, from every row to the next."""
    before, after = X[:-1], X[1:]
    return np.asarray((before < after).all(axis=0) | (before > after).all(axis=0))


def _few_changes(sample: Sample) -> NDArray[np.bool_]:
    """Return along which columns, sorted, the label changes much less often than by chance."""
    y = sample.y
    shares = np.bincount(y) / len(y)
    by_chance = len(y) * (1 - np.square(shares).sum())
    labels = y[np.argsort(sample.X, axis=0)]
    changes = np.count_nonzero(labels[1:] != labels[:-1], axis=0)
    few = np.asarray((changes <= FEW_CHANGES * by_chance) & ~_constant(sample.X))
    few[np.argsort(changes, kind="stable")[LOOKED_AGAIN:]] = False
    return few


def _leaks(sample: Sample) -> list[str]:
    """Return the columns that determine the label, unless others nearly do so as well."""
    minority = len(sample.y) - int(np.bincount(sample.y).max())
    if len(sample.y) < LEAK_ROWS or minority < LEAK_MINORITY:
        return []
    explained = np.array([1 - _unexplained(column, sample.y) / minority for column in sample.X.T])
    leaking = explained >= DETERMINED
    return [] if (explained[~leaking] > GOOD).any() else _chosen(sample.names, leaking)


def _unexplained(x: NDArray[np.float32], y: NDArray[np.int64]) -> int:
    """Return the number of rows whose label does not follow from one column x (n,): at least, not by its neighbours.

    Those are the rows outside the most frequent label of their value, and all rows in short runs: along the sorted
    values, fewer than RUN rows with one label between others.
    """
    order = np.lexsort((y, x))
    x, y = x[order], y[order]
    new_value = np.concatenate([[True], x[1:] != x[:-1]])
    new_pair = new_value | np.concatenate([[True], y[1:] != y[:-1]])
    pairs = np.flatnonzero(new_pair)
    sizes = np.diff(pairs, append=len(x))
    values = np.flatnonzero(new_value[pairs])  # the first pair of each value
    largest = np.maximum.reduceat(sizes, values)
    rows = np.add.reduceat(sizes, values)
    of_value = np.repeat(np.arange(len(values)), np.diff(values, append=len(pairs)))
    candidates = np.flatnonzero(sizes == largest[of_value])
    majority = y[pairs[candidates[np.unique(of_value[candidates], return_index=True)[1]]]]
    runs = np.flatnonzero(np.concatenate([[True], majority[1:] != majority[:-1]]))
    of_run = np.add.reduceat(rows, runs)
    return int((rows - largest).sum() + of_run[of_run < RUN].sum())


def _really_constant(rows: Rows, places: Sequence[tuple[str, slice]]) -> list[str]:
    """Return the names of the columns that are constant in all rows; other ones drop out as soon as they vary."""
    left, first = list(places), None
    for start in range(0, len(rows), ROWS):
        index = np.arange(start, min(start + ROWS, len(rows)))
        for _, part in _blocks(rows, index, np.empty(len(index), np.int64)):
            first = part[0].copy() if first is None else first
            left = [(name, place) for name, place in left if (part[:, place] == first[place]).all()]
            if not left:
                return []
    return [name for name, _ in left]
