"""Which columns of a file are features; all that cannot be one is named in one message, with a setting that works."""

from __future__ import annotations

import contextlib
import difflib
import json
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence

import pyarrow as pa

from distsgd.config import DataConfig
from distsgd.core.frames import only_count
from distsgd.core.losses import Target
from distsgd.core.names import shortened
from distsgd.data.datafile import DataFile
from distsgd.data.kinds import is_category, is_list, label_type, numpy_name, values_type
from distsgd.data.label_types import check_weights, label_kind, list_width
from distsgd.data.schema import InputSchema
from distsgd.data.unusable import SHOWN, listed, listing, problems, remedy
from distsgd.errors import DataError, Problem, nearest

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
) -> InputSchema:
    """Return the schema of a file: the columns `data.features` in that order, or by default all that can be features.

    The columns `empty` have no values in any file, and are left out unless `data.features` names them. Without
    `labelled` the label column need not be there. DataError, with all problems there are, if it is missing, or if
    columns cannot be used.
    """
    names, found = file.schema.names, list[Problem]()
    present = [name for name in labels if names.count(name) == 1]
    label = next((name for name in labels if name not in names), labels[0])
    lacking = labelled and label not in names
    guess = _likely_label(file, label) if lacking else label
    found += _repeated(file, labels) if labelled else []
    weight = None
    with collecting(found, "weight"):
        weight = _weight(file, labels, config, labelled=labelled)
    keep = {guess, *labels, weight or guess, *(config.features or ())}
    left_out = _index_columns(file, keep) + [(name, "no values") for name in empty if name not in keep]
    chosen = config.features
    if chosen is None:
        skipped = {guess, *labels, config.weight, *config.exclude, *(name for name, _ in left_out)}
        chosen = tuple(dict.fromkeys(name for name in names if name not in skipped))
    found += _choice_problems(file, labels, config)
    if not chosen and not lacking:
        found.append(_no_feature(file, labels, left_out))
    own = {guess, *labels, config.weight}
    usable = [name for name in dict.fromkeys(chosen) if name in names and name not in own]
    unusable = problems(file, usable, config)
    to_do = remedy(unusable, chosen, config, guess if lacking and len(labels) == 1 else None)
    if lacking:
        found.append(_no_label(file, label, guess, to_do if len(labels) == 1 else ""))
    found += listed(file, unusable, config, to_do)
    kind, width = None, None
    if labelled and present == list(labels):
        with collecting(found, "label"):
            kind, width = label_kind(file, labels, target)
    list_length = None
    names_of_lists = [] if unusable else [name for name in usable if is_list(file.schema.field(name).type)]
    if names_of_lists:
        with collecting(found, "type", names_of_lists[0]):
            list_length = list_width(file, names_of_lists[0])
    if found:
        raise DataError(problems=found)
    types = [values_type(file.schema.field(name).type) for name in chosen]
    return InputSchema(
        chosen,
        tuple(numpy_name(kind) for kind in types),
        list_length,
        tuple(labels),
        kind,
        width,
        weight=weight,
        categorical=frozenset(name for name, kind in zip(chosen, types, strict=True) if is_category(kind)),
        left_out=tuple(left_out),
        excluded=config.exclude,
        named=config.features is not None,
    )


@contextlib.contextmanager
def collecting(found: list[Problem], kind: str, *columns: str) -> Iterator[None]:
    """Add what a DataError says to the problems found, as one of a kind that is about such columns."""
    try:
        yield
    except DataError as error:
        found.extend(error.problems or [Problem(str(error), (), kind, columns)])


def _repeated(file: DataFile, labels: Sequence[str]) -> list[Problem]:
    """Return the labels whose name several columns have."""
    counts = Counter(file.schema.names)
    texts = [f"{counts[name]} columns have the name {shortened(name)!r}" for name in labels if counts[name] > 1]
    return [Problem(f"{file.path}: {text}; expected one label", ("rename all but one",), "label") for text in texts]


def _no_label(file: DataFile, label: str, guess: str, to_do: str) -> Problem:
    near = f" (did you mean {shortened(guess)!r}?)" if _near(label, [guess]) else ""
    return Problem(
        f"{file.path}: no column {shortened(label)!r}{near} for data.label; the columns are "
        f"{listing(file.schema.names)}; which one is the label?",
        (to_do,) if to_do else (),
        "label",
        (guess,),
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


def _no_feature(file: DataFile, labels: Sequence[str], left_out: Sequence[tuple[str, str]]) -> Problem:
    rest = "".join(f"; {shortened(name)!r} is left out: {reason}" for name, reason in left_out[:SHOWN])
    text = f"no feature column; expected at least one beside the label {listing(labels)}{rest}"
    return Problem(f"{file.path}: {text}", (), "empty")


def _choice_problems(file: DataFile, labels: Sequence[str], config: DataConfig) -> list[Problem]:
    """Return what is wrong with a choice of columns: it repeats one, names the label or what is not there."""
    names, found = dict.fromkeys(file.schema.names), []
    for name, count in Counter(config.features or ()).items():
        shown = repr(shortened(name))
        if name in labels or name == config.weight:
            what = "the label" if name in labels else "data.weight"
            text, to_do = f"data.features names {shown}, which is {what}; leave it out", ""
        elif name not in names:
            near = nearest(shortened(name), [shortened(known) for known in names if known not in labels])
            text = f"no column {shown}{near} for the features; the columns are {listing(list(names))}"
            to_do = "correct data.features"
        elif count > 1:
            text, to_do = f"data.features names {shown} twice; name it once", ""
        else:
            continue
        found.append(Problem(f"{file.path}: {text}", (to_do,) if to_do else (), "choice", (name,)))
    for label in labels:
        if label in config.exclude and label in names:
            text = f"{file.path}: data.exclude names {shortened(label)!r}, which is the label; leave it out"
            found.append(Problem(text, (), "choice", (label,)))
    return found


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
