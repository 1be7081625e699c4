"""Columns that cannot be features: all of them in one message, with settings and commands that work."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import pyarrow as pa

from distsgd.config import DataConfig
from distsgd.core.names import shortened
from distsgd.data.csvfile import CsvFile
from distsgd.data.datafile import DataFile, doubt_of
from distsgd.data.kinds import is_category, is_list, is_number, values_type
from distsgd.data.remedies import setting
from distsgd.errors import Problem

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
        values, reason = values_type(kind), doubt_of(file, name)
        text = f"column {shortened(name)!r} is {str(kind)[:100]}"
        if reason is not None:
            text = f"column {shortened(name)!r} is text, and features are numbers: {reason.found}"
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


def listed(file: DataFile, unusable: Problems, config: DataConfig, remedy: str) -> list[Problem]:
    """Return a problem for each column, and one for all of a reason beyond the first ones, with what to do."""
    to_do = (remedy,) if remedy else ()
    found, told = [], _about_text(file, unusable, config)
    for reason, columns in unusable.items():
        kind = "type" if reason else "text"
        end = f", {reason}" if reason else ""
        for name, text in columns[:SHOWN]:
            repair = dates_repair(file, name) if reason == DATES else None
            found.append(Problem(f"{file.path}: {text}{end}", told.get(name, to_do), kind, (name,), repair))
        rest = tuple(name for name, _ in columns[SHOWN:])
        if rest:
            found.append(Problem(f"{file.path}: and {len(rest):,} more columns{end}", to_do, kind, rest))
    return found


def _about_text(file: DataFile, unusable: Problems, config: DataConfig) -> dict[str, tuple[str, ...]]:
    """Return what to do about columns of text that are mostly numbers; one setting names all missing values."""
    doubts = {name: found for name, _ in unusable.get("", ()) if (found := doubt_of(file, name)) is not None}
    every = [name for columns in unusable.values() for name, _ in columns]
    out = f", or leave out: {leaving_out}" if len(leaving_out := _leaving_out(every, config)) <= LONGEST_SETTING else ""
    fill = ", and fill missing values with --set data.missing=mean" if config.missing == "refuse" else ""
    told: dict[str, tuple[str, ...]] = {
        name: (f"column {shortened(name)!r}: {found.remedy}{fill if found.missing else ''}{out}",)
        for name, found in doubts.items()
    }
    missing = {name: found.missing for name, found in doubts.items() if found.missing is not None}
    if len(missing) > 1:
        given = file.given_nulls if isinstance(file, CsvFile) else ()
        values = list(dict.fromkeys([*given, *missing.values()]))
        remedy = (
            f"if these cells are missing values, use {setting('data.csv_null', values)}{fill}; or else correct them"
        )
        told |= dict.fromkeys(missing, (f"{remedy}{out}",))
    return told


def remedy(problems: Problems, chosen: Sequence[str], config: DataConfig, label: str | None) -> str:
    """Return what to add to the command line; text that is mostly numbers has a better remedy than to be left out."""
    names = [name for reason, found in problems.items() if reason for name, _ in found]
    settings = [setting("data.label", label)] if label is not None else []
    if names and (config.features is None or set(chosen) - {*names}):
        settings.append(_leaving_out(names, config))
    if not settings:
        return "cast them to numbers, or name other columns in data.features" if names else ""
    text = " ".join(settings)
    if len(text) > LONGEST_SETTING:
        return "list the columns to leave out in data.exclude, or those to use in data.features"
    return f"leave out what cannot be used: {text}" if names else f"say so: {text}"


def _leaving_out(names: Sequence[str], config: DataConfig) -> str:
    """Return the setting that leaves columns out."""
    if config.features is not None:
        return setting("data.features", [name for name in config.features if name not in set(names)])
    return setting("data.exclude", [*config.exclude, *names])


def dates_repair(file: DataFile, name: str) -> tuple[str, str]:
    """Return how to use a date nevertheless, in words and as a change of a frame `d`."""
    day_first = ", dayfirst=True" if isinstance(file, CsvFile) and _day_comes_first(file) else ""
    change = f"t = pd.to_datetime(d.pop({name!r}){day_first})"
    change += f"; d[{name + '_month'!r}] = t.dt.month; d[{name + '_weekday'!r}] = t.dt.day_of_week"
    return "to use a date, make numbers of it such as its month and weekday", change


def _day_comes_first(file: CsvFile) -> bool:
    """Return whether dates are written day first: where `;` separates columns, unless the first row says otherwise.

    pandas would take 2025-01-02 for the first of February if it was told so.
    """
    row = file.locate(0)[1]
    return file.dialect.separator == ";" and (YEAR_FIRST.search(row) is None or DAY_FIRST.search(row) is not None)
