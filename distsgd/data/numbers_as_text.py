"""Columns of text whose values are nearly all numbers: one value that is none makes a whole column text in a frame."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from distsgd.core.names import shortened
from distsgd.data.columns import coded
from distsgd.data.repairs import rewriting
from distsgd.data.sources import Source

NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
"""A number as pandas.to_numeric reads it."""

LEAST = 5
"""Minimum number of different numbers: a few may well be codes beside others, such as 1, 2 and `none`."""

MOST = 0.9
"""Fraction of the different values that are numbers from which on the others look like mistakes."""

LONGEST_VALUE = 40
"""Characters of a value that a warning shows."""

TO_NUMBERS = "pandas.to_numeric(..., errors='coerce')"
"""What makes numbers of text in a frame, and missing values of all else."""


def warnings(source: Source, seen: Mapping[str, Collection[Any]]) -> tuple[str, ...]:
    """Return a warning for each column of text that holds numbers but for a few values.

    `seen` are the different values of the columns of categories, at least the first ones. Text that is numbers alone
    is not told of: somebody has made it text on purpose.
    """
    found = [_warning(source, name) for name, values in seen.items() if _mostly_numbers(values)]
    return tuple(text for text in found if text is not None)


def _mostly_numbers(values: Collection[Any]) -> bool:
    numbers = sum(isinstance(value, str) and NUMBER.fullmatch(value) is not None for value in values)
    return numbers >= max(LEAST, MOST * len(values))


def _warning(source: Source, name: str) -> str | None:
    """Return the warning for a column, whose values are all read; None if they are all numbers."""
    rows = others = 0
    first = None
    for batch in source.batches([name]):
        codes, found = coded(batch.table.column(name))
        is_number = np.array([NUMBER.fullmatch(value) is not None for value in found], bool)
        there = codes >= 0
        strange = np.zeros(len(codes), bool)
        strange[there] = ~is_number[codes[there]]
        rows += int(there.sum())
        others += int(strange.sum())
        if first is None and strange.any():
            row = int(np.argmax(strange))
            first = found[codes[row]], batch.place(row)
    if first is None:
        return None
    value, where = first
    shown = repr(value if len(value) <= LONGEST_VALUE else f"{value[:LONGEST_VALUE]}...")
    change = f"d[{name!r}] = pd.to_numeric(d[{name!r}], errors='coerce')"
    command = rewriting(source.files[0], change) if len(source.files) == 1 else None
    one = others == 1
    return (
        f"warning: column {shortened(name)!r} is text, and so no numbers for the model: {others:,} of its {rows:,} "
        f"values {'is no number' if one else 'are no numbers'}, the first one {shown} in {where}; correct "
        f"{'it, or make it a missing value' if one else 'them, or make them missing values'}, which --set "
        f"data.missing=mean fills, with {command or TO_NUMBERS}"
    )
