"""Loads the rows that a configuration names: open, split, read, normalise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from distsgd.config import DataConfig
from distsgd.core.losses import Target
from distsgd.core.sampling import SPLIT_STREAM, keyed_permutation
from distsgd.data.dataset import DataSet, digest_of
from distsgd.data.normalization import BatchTransform
from distsgd.errors import DataError, counted

Arithmetic = Literal["fast", "portable"]

VAL_FRACTION = 0.2
"""Fraction held out if neither `data.val` nor `data.val_fraction` is set."""


def load(
    config: DataConfig,
    stage: Callable[[str], None] = lambda _: None,
    *,
    data: Any = None,
    held_out_data: Any = None,
    weights: NDArray[np.float64] | None = None,
    target: Target = "class",
    class_weight: Literal["balanced"] | Mapping[str, float] | None = None,
    arithmetic: Arithmetic = "fast",
    located: Callable[[str, Callable[[int], str]], None] = lambda *_: None,
) -> DataSet:
    """Return the rows that a configuration names, checked, split, and ready to be gathered.

    `target` is what the loss takes; `arithmetic` is `train.arithmetic`, which statistics of the rows follow.
    The weights of classes go into those of the training rows; held-out rows have the weights of their column alone.
    `stage` is called with what is being done, and with how many rows have been read.
    `located` is called with `training` and `held-out`, and a function from a row's number to its place in the files.
    `data` and `held_out_data` are rows in memory that take the place of `data.train` and `data.val`; `weights` (N,) are
    those of all training rows, in place of `data.weight`.

    DataError, naming file, column and row where applicable, for anything that cannot be trained on.
    """
    # These import pyarrow, which a process that only gathers never needs.
    from distsgd.data.in_memory import in_memory
    from distsgd.data.survey import Survey

    stage(f"opening {config.train}" if data is None else "converting the data passed to train()")
    given = config.train if data is None else in_memory(data, config)
    held_out = config.val if held_out_data is None else in_memory(held_out_data, config, held_out=True)
    try:
        return _loaded(config, stage, given, held_out, weights, target, class_weight, arithmetic, located)
    except DataError as error:
        if not error.problems:
            raise
        raise Survey(config, target, stage, weights).completed(error, given, held_out) from None


def _loaded(
    config: DataConfig,
    stage: Callable[[str], None],
    given: Any,
    held_out_given: Any,
    weights: NDArray[np.float64] | None,
    target: Target,
    class_weight: Literal["balanced"] | Mapping[str, float] | None,
    arithmetic: Arithmetic,
    located: Callable[[str, Callable[[int], str]], None],
) -> DataSet:
    """Return the rows; DataError for the first thing that is wrong with them."""
    from distsgd.data.datafile import as_problem
    from distsgd.data.filling import check_memory, fill_held_out, fill_training
    from distsgd.data.fitting import features_line, features_used, fitted
    from distsgd.data.labels import LabelEncoder, lacking
    from distsgd.data.row_builder import RowBuilder
    from distsgd.data.sources import open_source
    from distsgd.data.statistics import STATISTICS
    from distsgd.data.suspicions import suspicions
    from distsgd.data.targets import ArrayTargets, TargetEncoder
    from distsgd.data.weights import weighted, with_class_weights, with_weights

    statistics = STATISTICS[arithmetic]
    source = open_source(given, config, target=target).reporting(stage)
    source = weighted(source) if weights is None else with_weights(source, weights)
    held_out = None
    if held_out_given is not None:
        held_out = weighted(open_source(held_out_given, config, source, target=target).reporting(stage))
    check_memory(source, held_out)
    in_val = split(source.num_rows, config, source.location) if held_out is None else np.zeros(source.num_rows, bool)
    source = fitted(source, ~in_val, config, statistics)
    if held_out is not None:
        held_out = held_out.like(source)
    check_memory(source, held_out)

    encoder: TargetEncoder = ArrayTargets(source.schema)
    if target == "class":
        with as_problem("label"):
            encoder = LabelEncoder.for_training(source.schema, config.classes)
    train = RowBuilder(source, ~in_val, encoder)
    val = RowBuilder(source, in_val, encoder) if in_val.any() else None
    normalization = fill_training(source, encoder, train, val, config.normalize, statistics)
    with as_problem("label"):
        classes = encoder.finish([part.y for part in (train, val) if part], source.location)
    if held_out:
        known = LabelEncoder.for_held_out(held_out.schema, classes) if target == "class" else encoder
        val = fill_held_out(held_out, known, normalization, train.X.dtype)

    if class_weight is not None:
        train.weights = with_class_weights(train.weights, train.y, classes, class_weight, statistics)
    stage(f"checking the rows of {config.train}")
    parts = {"training": train, **({"held-out": val} if val else {})}
    for name, part in parts.items():
        located(name, part.place)
    rows, val_rows = train.rows(), val.rows() if val else None
    names = source.schema.feature_names
    return DataSet(
        train=rows,
        val=val_rows,
        classes=classes,
        feature_names=names,
        schema=source.schema,
        inputs=source.schema.inputs,
        normalization=normalization,
        transform=normalization.batch_transform() if rows.X.dtype.kind in "iu" else BatchTransform(),
        digest=digest_of(rows, val_rows, classes, names, normalization),
        source=source.location,
        description=features_line(source.schema),
        features=features_used(source.schema),
        blocks={name: part.blocks() for name, part in parts.items()},
        notices=(
            *source.notices,
            *(held_out.notices if held_out else ()),
            *encoder.notices,
            *(lacking(train.y, val.y if val else None, classes) if target == "class" else ()),
            *(val.notices if val else ()),
            *suspicions(rows, source.schema.inputs),
        ),
    )


def split(size: int, config: DataConfig, location: str = "the data") -> NDArray[np.bool_]:
    """Return which of `size` rows are held out (size,): the first round(size * fraction) of the keyed permutation."""
    fraction = VAL_FRACTION if config.val_fraction is None else config.val_fraction
    count = round(size * fraction)
    if fraction and not count:
        raise DataError(
            f"{location}: {fraction:g} of {counted(size, 'row')} is no row to hold out; raise data.val_fraction or set "
            "it to 0"
        )
    if count == size:
        raise DataError(
            f"{location}: {fraction:g} of {counted(size, 'row')} leaves none to train on; lower data.val_fraction"
        )
    held_out = np.zeros(size, bool)
    for start in range(0, count, 2**20):  # in chunks, because a permutation's temporaries are many times its size
        positions = np.arange(start, min(start + 2**20, count))
        held_out[keyed_permutation(config.split_seed, SPLIT_STREAM, size, positions)] = True
    return held_out
