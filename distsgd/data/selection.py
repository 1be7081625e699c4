"""Which columns of a file are features; all that cannot be one is named in one message, with a setting that works."""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from collections.abc import Collection, Sequence

import pyarrow as pa

from distsgd.config import DataConfig
from distsgd.core.frames import only_count
from distsgd.core.losses import Target
from distsgd.core.names import shortened
from distsgd.data.datafile import DataFile
from distsgd.data.kinds import is_category, is_list, label_type, numpy_name, values_type
from distsgd.data.label_types import check_weights, label_kind, list_width
from distsgd.data.schema import InputSchema
from distsgd.data.unusable import SHOWN, dates_hint, listing, named, problems, remedy
from distsgd.errors import DataError, nearest

LABEL_NAMES = ("label", "labels", "target", "class", "y", "species", "category", "outcome", "diagnosis")
"""What label columns are often called."""

GUESSED_ROWS = 1_000
"""Rows by which the label is guessed, where no name tells."""

INDEX = re.compile(r"__index_level_\d+__")
"""What pandas calls an index without a name."""


def resolve(
    file: DataFile,
    labels: Sequence[str],
    config: DataConfig,
    *,
    target: Target = "class",
    labelled: bool = True,
    empty: Collection[str] = (),
    alone: bool = False,
) -> InputSchema:
    """Return the schema of a file: the columns `data.features` in that order, or by default all that can be features.

    The columns `empty` have no values in any file, and are left out unless `data.features` names them. `alone` says
    that there is no other file, so that the command that writes this one again is all that is needed. Without
    `labelled` the label column need not be there. DataError if it is missing, or if columns cannot be used: the message
    names all of them, and what to add to the command line.
    """
    names = file.schema.names
    for name in labels:
        if labelled and names.count(name) > 1:
            raise DataError(
                f"{file.path}: {names.count(name)} columns have the name {shortened(name)!r}; rename all but one"
            )
    label = next((name for name in labels if name not in names), labels[0])
    lacking = labelled and label not in names
    guess = _likely_label(file, label) if lacking else label
    weight = _weight(file, labels, config, labelled=labelled)
    keep = {guess, *labels, weight or guess, *(config.features or ())}
    left_out = _index_columns(file, keep) + [(name, "no values") for name in empty if name not in keep]
    chosen = config.features
    if chosen is None:
        skipped = {guess, *labels, config.weight, *config.exclude, *(name for name, _ in left_out)}
        chosen = tuple(dict.fromkeys(name for name in names if name not in skipped))
    if not lacking:
        _check_chosen(file, labels, chosen, config, left_out)
    unusable = problems(file, [name for name in chosen if name in names and name != guess], config)
    hint = dates_hint(file, unusable, alone)
    if lacking:
        near = f" (did you mean {shortened(guess)!r}?)" if _near(label, [guess]) else ""
        listed = f"{file.path}: no column {shortened(label)!r}{near} for data.label; the columns are "
        listed += f"{listing(names)}; which one is the label?"
        if len(labels) > 1:
            raise DataError(listed)
        raise DataError(f"{listed} {named(unusable)}{remedy(unusable, chosen, config, guess)}{hint}")
    if unusable:
        raise DataError(f"{file.path}: {named(unusable)}{remedy(unusable, chosen, config, None)}{hint}")
    types = [values_type(file.schema.field(name).type) for name in chosen]
    kind, width = label_kind(file, labels, target) if labelled else (None, None)
    holds_lists = is_list(file.schema.field(chosen[0]).type)
    return InputSchema(
        chosen,
        tuple(numpy_name(kind) for kind in types),
        list_width(file, chosen[0]) if holds_lists else None,
        tuple(labels),
        kind,
        width,
        weight=weight,
        categorical=frozenset(name for name, kind in zip(chosen, types, strict=True) if is_category(kind)),
        left_out=tuple(left_out),
        excluded=config.exclude,
        named=config.features is not None,
    )


def _likely_label(file: DataFile, wanted: str) -> str:
    """Return the column that is most likely the label: by its name, else the last one.

    In a file without a header line it may as well be the first one, which its values tell.
    """
    names = file.schema.names
    possible = [field.name for field in file.schema if label_type(field.type) is not None] or names or [wanted]
    usual = [name for known in LABEL_NAMES for name in possible if name.lower() == known]
    place = 0 if only_count(possible) and _is_label(file, possible[0], possible[-1]) else -1
    return str((_near(wanted, possible) or usual or [possible[place]])[0])


def _is_label(file: DataFile, first: str, last: str) -> bool:
    """Return whether, in the first rows, one column looks like labels and another one does not.

    Labels have more than one value, each of them in several rows, and are no fractions.
    """
    batch = next((b for b in file.batches(list(dict.fromkeys([first, last])), GUESSED_ROWS) if b.num_rows), None)
    if batch is None:
        return False
    likely = []
    for name in (first, last):
        values = batch.column(name).drop_null()
        fractions = pa.types.is_floating(values.type) and bool((values.to_numpy() % 1).any())
        likely.append(not fractions and 1 < len(values.unique()) <= len(values) / 4)
    return likely == [True, False]


def _near(wanted: str, names: Sequence[str]) -> list[str]:
    return difflib.get_close_matches(wanted, names, n=1, cutoff=0.6)


def _index_columns(file: DataFile, keep: set[str]) -> list[tuple[str, str]]:
    """Return the columns that hold a pandas index, by the file's metadata or their name."""
    try:
        described = json.loads((file.schema.metadata or {}).get(b"pandas", b"{}"))
        found = {name for name in described.get("index_columns", ()) if isinstance(name, str)}
    except (ValueError, AttributeError, TypeError):  # somebody else's metadata
        found = set()
    names = [n for n in dict.fromkeys(file.schema.names) if (n in found or INDEX.fullmatch(n)) and n not in keep]
    return [(name, "pandas' index") for name in names]


def _check_chosen(
    file: DataFile,
    labels: Sequence[str],
    chosen: tuple[str, ...],
    config: DataConfig,
    left_out: Sequence[tuple[str, str]],
) -> None:
    """Refuse a choice of columns that is empty, repeats one, or names the label or what is not there."""
    names = dict.fromkeys(file.schema.names)
    counts = Counter(chosen)
    for name in config.features or ():
        if name in labels:
            raise DataError(f"{file.path}: data.features names {shortened(name)!r}, which is the label; leave it out")
        if name == config.weight:
            raise DataError(f"{file.path}: data.features names {shortened(name)!r}, which is data.weight; leave it out")
        if name not in names:
            near = nearest(shortened(name), [shortened(known) for known in names if known not in labels])
            raise DataError(
                f"{file.path}: no column {shortened(name)!r}{near} for the features; "
                f"the columns are {listing(list(names))}"
            )
        if counts[name] > 1:
            raise DataError(f"data.features names {shortened(name)!r} twice; name it once")
    for label in labels:
        if label in config.exclude and label in names:
            raise DataError(f"{file.path}: data.exclude names {shortened(label)!r}, which is the label; leave it out")
    if not chosen:
        rest = "".join(f"; {shortened(name)!r} is left out: {reason}" for name, reason in left_out[:SHOWN])
        raise DataError(
            f"{file.path}: no feature column; expected at least one beside the label {listing(labels)}{rest}"
        )


def _weight(file: DataFile, labels: Sequence[str], config: DataConfig, *, labelled: bool) -> str | None:
    """Return the column of weights; None if there is none, or if rows are only to be predicted."""
    name = config.weight
    if name is None or not labelled:
        return None
    if name in labels:
        raise DataError(f"{file.path}: data.weight names {shortened(name)!r}, which is the label; correct one of them")
    if file.schema.names.count(name) != 1:
        known = [shortened(other) for other in file.schema.names if other not in labels]
        found = f"no column {shortened(name)!r}{nearest(shortened(name), known)}"
        if name in file.schema.names:
            found = f"{file.schema.names.count(name)} columns have the name {shortened(name)!r}"
        raise DataError(f"{file.path}: {found} for data.weight; the columns are {listing(file.schema.names)}")
    check_weights(file, name)
    return name
