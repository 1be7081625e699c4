"""Columns that cannot be features: all of them in one message, with settings and commands that work."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import pyarrow as pa

from distsgd.config import DataConfig
from distsgd.core.names import shortened
from distsgd.data.csvfile import CsvFile
from distsgd.data.datafile import DataFile, doubt
from distsgd.data.kinds import is_category, is_list, is_number, values_type
from distsgd.data.remedies import setting
from distsgd.data.repairs import rewriting

SHOWN = 8
"""Columns that a message names."""

LONGEST_SETTING = 280
"""Characters of a setting that a message gives; with more columns it says which key to use."""

DATES = "and dates and times are no features"
"""Why dates cannot be used."""

YEAR_FIRST, DAY_FIRST = re.compile(r"\b\d{4}-\d\d-\d\d"), re.compile(r"\b\d{1,2}[./]\d{1,2}[./]\d{4}\b")
"""Dates in a line of text."""

Problems = dict[str, list[tuple[str, str]]]
"""Columns that cannot be features, by reason: their names, and what a message says of each."""


def listing(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(repr(shortened(name)) for name in names[:SHOWN]) + more


def problems(file: DataFile, chosen: Sequence[str], config: DataConfig) -> Problems:
    """Return the columns that cannot be features."""
    counts, found, usable = Counter(file.schema.names), Problems(), list[str]()
    for name in chosen:
        if counts[name] > 1:
            text = f"{counts[name]} columns have the name {shortened(name)!r}"
            found.setdefault("rename all but one", []).append((name, text))
            continue
        kind = file.schema.field(name).type
        values, reason, text = values_type(kind), doubt(file, name), f"column {shortened(name)!r} is {str(kind)[:100]}"
        if reason is not None:
            text = f"column {shortened(name)!r} is text, and features are numbers: {reason}"
            found.setdefault("", []).append((name, text))
        elif is_number(values):
            usable.append(name)
        elif is_category(values) and not is_list(kind):
            if config.categorical != "refuse":
                usable.append(name)
            else:
                found.setdefault("and data.categorical is refuse", []).append((name, text))
        elif pa.types.is_temporal(values):
            found.setdefault(DATES, []).append((name, text))
        else:
            found.setdefault("and features are numbers or categories", []).append((name, text))
    lists = [name for name in usable if is_list(file.schema.field(name).type)]
    if lists and len(usable) > 1:
        beside = [(name, f"column {shortened(name)!r}") for name in usable if name != lists[0]]
        found[f"beside column {shortened(lists[0])!r}, which holds lists and can only be the one feature column"] = (
            beside
        )
    return found


def named(problems: Problems) -> str:
    """Return all problems in a line."""
    parts = []
    for reason, columns in problems.items():
        more = f" and {len(columns) - SHOWN} more" if len(columns) > SHOWN else ""
        listed = ", ".join(text for _, text in columns[:SHOWN]) + more
        parts.append(f"{listed}, {reason}" if reason else listed)
    return "; ".join(parts) + ("; " if parts else "")


def remedy(problems: Problems, chosen: Sequence[str], config: DataConfig, label: str | None) -> str:
    """Return what to add to the command line."""
    names = [name for found in problems.values() for name, _ in found]
    settings = [setting("data.label", label)] if label is not None else []
    rest = [name for name in chosen if name not in set(names)]
    if names and config.features is not None:
        settings += [setting("data.features", rest)] if rest else []
    elif names:
        settings.append(setting("data.exclude", [*config.exclude, *names]))
    if not settings:
        return "cast them to numbers, or name other columns in data.features"
    text = " ".join(settings)
    if len(text) > LONGEST_SETTING:
        return "list the columns to leave out in data.exclude, or those to use in data.features"
    return f"leave out what cannot be used: {text}" if names else f"Say so: {text}"


def dates_hint(file: DataFile, problems: Problems, alone: bool) -> str:
    """Return how to use a date nevertheless, if there is one among the columns that cannot be used."""
    name = next((name for name, _ in problems.get(DATES, ())), None)
    if name is None:
        return ""
    day_first = ", dayfirst=True" if isinstance(file, CsvFile) and _day_comes_first(file) else ""
    change = f"t = pd.to_datetime(d.pop({name!r}){day_first})"
    change += f"; d[{name + '_month'!r}] = t.dt.month; d[{name + '_weekday'!r}] = t.dt.day_of_week"
    # Text that should be numbers would stay text in what pandas writes, and become categories.
    command = rewriting(file, change) if alone and not any(doubt(file, n) for n in file.schema.names) else None
    if command is None:
        return "; to use a date, write numbers such as its month and weekday as columns"
    return f"; or make numbers of a date, and train on what this writes: {command}"


def _day_comes_first(file: CsvFile) -> bool:
    """Return whether dates are written day first: where `;` separates columns, unless the first row says otherwise.

    pandas would take 2025-01-02 for the first of February if it was told so.
    """
    row = file.locate(0)[1]
    return file.dialect.separator == ";" and (YEAR_FIRST.search(row) is None or DAY_FIRST.search(row) is not None)
