"""Rows for a trained model: its columns found by their names in any data file, and what to carry along beside them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from distsgd.config import DataConfig
from distsgd.core.inputs import Column, Inputs
from distsgd.core.losses import Target
from distsgd.core.names import shortened
from distsgd.data.columns import MissingValue, RowError, UnknownCategories, feature_block
from distsgd.data.kinds import numpy_name, values_type
from distsgd.data.labels import LabelEncoder
from distsgd.data.model_fit import check_fits, check_kept, has_weights, label_kind
from distsgd.data.partitions import with_partitions
from distsgd.data.schema import InputSchema
from distsgd.data.sources import Source, SourceBatch, open_files
from distsgd.data.targets import ArrayTargets, TargetEncoder
from distsgd.data.weights import weights_of
from distsgd.errors import DataError


@dataclass(frozen=True)
class Examples:
    """Some consecutive rows."""

    X: NDArray[Any]
    """(n, D): raw features, before they are normalised."""
    y: NDArray[Any] | None
    """(n,): class indices; (n, C): labels or numbers; None if the rows are read without labels."""
    kept: pa.Table
    """The columns to carry along."""
    weights: NDArray[np.float32] | None = None
    """(n,): above 0; None if rows have no weights."""

    def __len__(self) -> int:
        return len(self.X)


@dataclass(frozen=True)
class ModelRows:
    """All rows of a path, in order, as a model takes them."""

    source: Source
    keep: tuple[str, ...]
    """Columns to carry along."""
    labels: TargetEncoder | None
    """Encodes the labels; None if they are not read."""
    weight: str | None = None
    """The column of weights, by which rows of weight 0 are left out; None if they are not read."""
    unknown: UnknownCategories = field(default_factory=UnknownCategories)

    def __len__(self) -> int:
        return self.source.num_rows

    @property
    def features(self) -> int:
        """The number of features, D."""
        return self.source.schema.num_features

    @property
    def kept_schema(self) -> pa.Schema:
        """Names and types of the columns to carry along."""
        schema = self.source.files[0].schema
        return pa.schema([schema.field(name).remove_metadata() for name in self.keep])

    @property
    def notices(self) -> tuple[str, ...]:
        """What the user should know of the files and, once they have been read, of their values."""
        return (*self.source.notices, *self.unknown.notices(self.source.location, "row"))

    def parts(self, size: int, start: int = 0) -> Iterator[Examples]:
        """Yield rows `size` at a time, the last ones fewer, from row `start` on; earlier files are not even opened.

        Rows of weight 0 are left out, whatever else they hold.

        DataError, naming file and row, for a value that the model does not take.
        """
        waiting, count = list[Examples](), 0
        for examples in self._examples(start):
            place = 0
            while place < len(examples):
                taken = _part(examples, place, place + size - count)
                waiting.append(taken)
                place, count = place + len(taken), count + len(taken)
                if count == size:
                    yield _joined(waiting)
                    waiting, count = [], 0
        if waiting:
            yield _joined(waiting)

    def _examples(self, start: int) -> Iterator[Examples]:
        files = list(self.source.files)
        while files and start >= files[0].num_rows:
            start -= files.pop(0).num_rows
        schema = self.source.schema
        names = [*schema.columns, *(schema.labels if self.labels else ()), *self.keep]
        names += [self.weight] if self.weight else []
        dtype = np.dtype(np.float64)
        for batch in dataclasses.replace(self.source, files=tuple(files)).batches(list(dict.fromkeys(names))):
            skipped = min(start, batch.table.num_rows)
            start -= skipped
            rest = SourceBatch(batch.table.slice(skipped), batch.file, batch.start + skipped)
            weights = weights_of(rest, self.weight) if self.weight else None
            if weights is not None and not weights.all():
                rest, weights = rest.only(weights > 0), weights[weights > 0]
            if not rest.table.num_rows:
                continue
            try:
                X = feature_block(rest.table, schema, dtype, self.unknown)
                self._check_booleans(X)
                y = self.labels.encode_rows(rest.table) if self.labels else None
            except RowError as problem:
                fill = "; this model was trained with data.missing=refuse, and takes no missing values"
                hint = fill if isinstance(problem, MissingValue) else ""
                raise rest.error(problem.row, f"{problem}{hint}") from None
            kept = pa.Table.from_batches([rest.table.select(list(self.keep))]) if self.keep else _nothing(len(X))
            yield Examples(X, y, kept, weights)

    def _check_booleans(self, X: NDArray[Any]) -> None:
        """Refuse a number that is neither 0 nor 1 in a column that held true and false when the model was trained."""
        place = 0
        for column in self.source.schema.inputs.columns:
            if column.kind == "boolean":
                values = X[:, place]
                wrong = (values != 0) & (values != 1) & (values != (0 if column.fill is None else column.fill))
                if wrong.any():
                    row = int(np.argmax(wrong))
                    name = shortened(column.name)
                    raise RowError(row, f"{values[row]} in column {name!r}; the model was trained on true and false")
            place += column.features


def open_rows(
    location: str,
    config: DataConfig,
    inputs: Inputs,
    *,
    keep: Sequence[str] = (),
    classes: NDArray[Any] | None = None,
    target: Target = "class",
) -> ModelRows:
    """Open the rows that `location` names for a model with these inputs, which was trained with `config`.

    With `classes` (C,), what the outputs stand for, the labels are read, too, as the loss's `target` says, and the
    weights that the configuration names, if there are some; without, there need be none. Columns that are neither
    features nor to be kept are passed over. DataError, with all differences, for files that do not fit the model.
    """
    types_there = {column.name: _arrow_type(column) for column in inputs.columns}
    if classes is not None and target == "class":
        types_there[config.labels[0]] = pa.string() if classes.dtype.kind == "U" else pa.int64()
    like = pa.schema(types_there)
    form, files = open_files(location, config, like)
    filled = [file for file in files if file.num_rows]
    if not filled:
        raise DataError(f"{location} has no rows")
    notices = form.notices(filled) if form.notices else ()
    names = (form.label,) if form.label else config.labels
    features = [column.name for column in inputs.columns]
    wanted = {*features, *keep, *((*names, config.weight or names[0]) if classes is not None else ())}
    filled, _ = with_partitions(location, filled, wanted)
    for file in filled:
        check_fits(file, inputs)
        check_kept(file, filled[0], keep)
    kind, width = (None, None) if classes is None else label_kind(filled, names, classes, target)
    schema = filled[0].schema
    types = tuple(numpy_name(values_type(schema.field(name).type)) for name in features)
    found = InputSchema(
        tuple(features),
        types,
        inputs.columns[0].width if inputs.columns[0].kind == "list" else None,
        names,
        kind,
        width,
        categorical=frozenset(column.name for column in inputs.columns if column.kind in ("category", "hash")),
        fitted=inputs,
    )
    labels: TargetEncoder | None = None
    if classes is not None:
        labels = LabelEncoder.for_model(found, classes) if target == "class" else ArrayTargets(found)
    weight = None
    if labels is not None and has_weights(filled, config.weight):
        weight = config.weight
    return ModelRows(Source(location, tuple(filled), found, notices), tuple(keep), labels, weight)


def _arrow_type(column: Column) -> pa.DataType:
    """Return the type that a column had in the training files, as far as it matters to how text is read."""
    if column.kind in ("category", "hash"):
        return {"str": pa.string(), "int64": pa.int64(), "bool": pa.bool_()}[column.dtype]
    kind = pa.from_numpy_dtype(np.dtype(column.dtype))
    return pa.list_(kind, column.width) if column.kind == "list" else kind


def _nothing(rows: int) -> pa.Table:
    """Return a table of so many rows without columns."""
    return pa.table({"": pa.nulls(rows)}).select([])


def _part(examples: Examples, start: int, stop: int) -> Examples:
    y = None if examples.y is None else examples.y[start:stop]
    weights = None if examples.weights is None else examples.weights[start:stop]
    return Examples(examples.X[start:stop], y, examples.kept.slice(start, stop - start), weights)


def _joined(parts: list[Examples]) -> Examples:
    if len(parts) == 1:
        return parts[0]
    ys = [part.y for part in parts if part.y is not None]
    weights = [part.weights for part in parts if part.weights is not None]
    return Examples(
        np.concatenate([part.X for part in parts]),
        np.concatenate(ys) if ys else None,
        pa.concat_tables([part.kept for part in parts]),
        np.concatenate(weights) if weights else None,
    )
