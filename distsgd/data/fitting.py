"""What the training rows say of their columns: the values of categories, and what missing values become."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from distsgd.config import DataConfig
from distsgd.core.inputs import Column, Inputs
from distsgd.core.names import shortened
from distsgd.core.scaling import block_rows
from distsgd.data import numbers_as_text
from distsgd.data.columns import coded
from distsgd.data.remedies import setting
from distsgd.data.schema import InputSchema
from distsgd.data.sources import Source
from distsgd.data.statistics import FAST, Statistics
from distsgd.data.weights import relative
from distsgd.errors import DataError, Problem, counted, printable


def fitted(source: Source, chosen: NDArray[np.bool_], config: DataConfig, statistics: Statistics = FAST) -> Source:
    """Return the source with its columns as the model keeps them, by the rows marked in `chosen` (N,).

    Columns of text with too many values are left out, unless `data.features` names them; DataError for those.
    """
    schema = source.schema
    if not schema.categorical and config.missing == "refuse":
        return source
    means = _Means(schema, statistics) if config.missing == "mean" else None
    values: dict[str, set[Any]] = {name: set() for name in schema.columns if name in schema.categorical}
    limit = config.max_categories
    names = schema.columns if means else tuple(values)
    weights = None if source.weights is None or not means else relative(source.weights, statistics)
    start = 0
    for batch in source.batches(names):
        mask = chosen[start : start + batch.table.num_rows]
        of_rows = None if weights is None else weights[start : start + batch.table.num_rows][mask]
        start += batch.table.num_rows
        for name, seen in values.items():
            if len(seen) <= limit:
                codes, found = coded(batch.table.column(name))
                seen.update(found[code] for code in np.unique(codes[mask]).tolist() if code >= 0)
        if means:
            table = batch.table.select([name for name in names if name not in values])
            means.add(table if mask.all() else table.filter(pa.array(mask)), of_rows)
        elif all(len(seen) > limit for seen in values.values()):
            break  # nothing more can be learned
    if means:
        means.check(source.location)
    rows = int(chosen.sum())
    reasons = {name: _unusable(seen, rows, config) for name, seen in values.items()}
    refused = {name: reason for name, reason in reasons.items() if reason is not None}
    _check_named(source, refused, config)
    columns = [
        _column(schema, name, kind, values, means, config)
        for name, kind in zip(schema.columns, schema.types, strict=True)
        if name not in refused
    ]
    if not columns:
        raise DataError(
            f"{source.location}: no column is left for a feature: {described(list(refused.items()))} cannot be used; "
            "raise data.max_categories, or hash them: --set data.categorical=hash"
        )
    kept = {column.name for column in columns}
    return dataclasses.replace(
        source,
        notices=(*source.notices, *numbers_as_text.warnings(source, values)),
        schema=dataclasses.replace(
            schema,
            columns=tuple(name for name in schema.columns if name in kept),
            types=tuple(kind for name, kind in zip(schema.columns, schema.types, strict=True) if name in kept),
            categorical=schema.categorical & kept,
            left_out=(*schema.left_out, *((name, f"text, {reason}") for name, reason in refused.items())),
            fitted=Inputs(tuple(columns)),
        ),
    )


def _unusable(seen: set[Any], rows: int, config: DataConfig) -> str | None:
    """Return why a column of text is left out; None if it becomes features."""
    if len(seen) > config.max_categories:
        return None if config.categorical == "hash" else f"more than {config.max_categories} different values"
    if not seen:
        return "no values in the training rows"
    if config.features is None and len(seen) > rows / 2:
        return f"{counted(len(seen), 'different value')} in {counted(rows, 'row')}"
    return None


def _check_named(source: Source, refused: dict[str, str], config: DataConfig) -> None:
    """Refuse columns that data.features names and that cannot be used."""
    if config.features is None or not refused:
        return
    rest = [name for name in config.features if name not in refused]
    command = f", or leave them out: {setting('data.features', rest)}" if rest else ""
    text = f"{source.location}: {described(list(refused.items()))} cannot be categories"
    remedy = f"raise data.max_categories, hash them with --set data.categorical=hash{command}"
    raise DataError(problems=[Problem(text, (remedy,), "type", tuple(refused))])


def _column(
    schema: InputSchema,
    name: str,
    kind: str,
    values: dict[str, set[Any]],
    means: _Means | None,
    config: DataConfig,
) -> Column:
    filled = config.missing != "refuse"
    if name in values:
        if len(values[name]) > config.max_categories:
            return Column(name=name, kind="hash", dtype=kind, width=config.max_categories, missing=filled)
        return Column(name=name, kind="category", dtype=kind, categories=tuple(sorted(values[name])), missing=filled)
    fill = None if not filled else 0.0 if means is None else means.of(name)
    if schema.width is not None:
        return Column(name=name, kind="list", dtype=kind, width=schema.width, fill=fill)
    form: Literal["boolean", "number"] = "boolean" if np.dtype(kind).kind == "b" else "number"
    return Column(name=name, kind=form, dtype=kind, fill=fill)


class _Means:
    """The mean of each column's values that are there, with the same bits however the rows are cut into batches."""

    def __init__(self, schema: InputSchema, statistics: Statistics) -> None:
        self._schema, self._summed = schema, statistics.summed
        self._names = [name for name in schema.columns if name not in schema.categorical]
        self._types = dict(zip(schema.columns, schema.types, strict=True))
        self._width = schema.width or 1
        self._length = block_rows(max(1, len(self._names)) * self._width) * self._width
        self._rest = {name: (np.empty(0), np.empty(0)) for name in self._names}  # values, and their weights
        self._sums = dict.fromkeys(self._names, 0.0)
        self._counts = dict.fromkeys(self._names, 0.0)

    def add(self, table: pa.RecordBatch, weights: NDArray[np.float64] | None) -> None:
        """Add rows, which count as their weights (n,) say, if they have some."""
        each = None if weights is None else np.repeat(weights, self._width)
        for name in self._names:
            values = table.column(name)
            if isinstance(values, pa.ExtensionArray):
                values = values.storage
            if hasattr(values, "flatten") and pa.types.is_nested(values.type):
                values = values.flatten()
            kind = values.type
            if not pa.types.is_floating(kind) or pa.types.is_float16(kind):
                values = values.cast(pa.uint8()) if pa.types.is_boolean(kind) else values
                values = values.cast(pa.float64(), safe=False) if not pa.types.is_float16(kind) else values
            found = values.to_numpy(zero_copy_only=False).astype(np.float64)
            rest, of_rest = self._rest[name]
            joined = np.concatenate([rest, found])
            of_joined = of_rest if each is None else np.concatenate([of_rest, each])
            whole = len(joined) // self._length * self._length
            for start in range(0, whole, self._length):
                block = slice(start, start + self._length)
                self._merge(name, joined[block], None if each is None else of_joined[block])
            self._rest[name] = joined[whole:], of_joined[whole:]

    def _merge(self, name: str, block: NDArray[Any], weights: NDArray[Any] | None) -> None:
        there = ~np.isnan(block)
        self._counts[name] += float(there.sum()) if weights is None else self._summed(weights[there])
        block = block if weights is None else block * weights
        self._sums[name] += self._summed(np.where(there, block, 0.0))

    def of(self, name: str) -> float:
        """Return a column's mean, as its type can hold it if that is a float; it has to have been checked."""
        mean = self._sums[name] / self._counts[name]
        kind = np.dtype(self._types[name])
        return float(kind.type(mean)) if kind.kind == "f" else mean

    def check(self, location: str) -> None:
        """Refuse columns without a mean that is finite, once all rows have been added: all of them in one message."""
        for name, (rest, weights) in self._rest.items():
            self._merge(name, rest, weights if len(weights) else None)
        self._rest = {}
        refused = {name: "no values in the training rows" for name in self._names if not self._counts[name]}
        with np.errstate(over="ignore"):
            finite = {name: name in refused or bool(np.isfinite(self.of(name))) for name in self._names}
        refused |= {name: f"the mean is {self.of(name)}" for name in self._names if not finite[name]}
        if refused:
            some = len(refused) < len(self._schema.columns)
            remedy = f": {leaving_out(self._schema, list(refused))}" if some else ", or name other ones"
            text = f"{location}: data.missing=mean has nothing to fill {described(list(refused.items()))} with"
            raise DataError(problems=[Problem(text, (f"leave these columns out{remedy}",), "missing", tuple(refused))])


def described(columns: list[tuple[str, str]]) -> str:
    """Return the first columns, each with what is said of it, and how many more there are."""
    more = f" and {len(columns) - 8} more" if len(columns) > 8 else ""
    return ", ".join(f"{shortened(name)} ({reason})" for name, reason in columns[:8]) + more


def features_line(schema: InputSchema) -> str:
    """Return `features (4): income, age, color (one-hot, 2); left out: id (text, ...)`."""
    parts = []
    for column in schema.inputs.columns[:SHOWN]:
        form = {"category": f" (one-hot, {column.features})", "hash": f" (hashed, {column.width})"}
        parts.append(shortened(column.name) + form.get(column.kind, ""))
    more = len(schema.inputs.columns) - SHOWN
    line = f"features ({schema.num_features:,}): {', '.join(parts)}" + (f" and {more:,} more" if more > 0 else "")
    left_out = _left_out(schema)
    line += f"; left out: {described(left_out)}" if left_out else ""
    return printable(line)[:LONGEST]


def features_used(schema: InputSchema) -> dict[str, Any]:
    """Return what that line says, of all columns: `used`, the names, and `left_out`, the reason of each name."""
    return {"used": list(schema.columns), "left_out": dict(_left_out(schema))}


def _left_out(schema: InputSchema) -> list[tuple[str, str]]:
    return [*schema.left_out, *((name, "data.exclude") for name in schema.excluded)]


SHOWN = 20
"""Columns that the line of features names."""

LONGEST = 2_000
"""Characters of that line."""


def leaving_out(schema: InputSchema, names: Sequence[str]) -> str:
    """Return what to add to the command line so that these columns are no features."""
    if schema.named:
        return setting("data.features", [name for name in schema.columns if name not in names])
    return setting("data.exclude", [*schema.excluded, *names])
