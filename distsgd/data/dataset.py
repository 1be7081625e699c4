"""Loaded data: the rows, and what is needed to train on them and to predict later."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from distsgd.core.inputs import Inputs
from distsgd.data.blocks import RowBlocks
from distsgd.data.bounds import RunBounds, bounds_of
from distsgd.data.normalization import BatchTransform, Normalization
from distsgd.data.rows import Rows
from distsgd.data.schema import InputSchema


@dataclass(frozen=True)
class DataSet:
    """Training rows and held-out rows, with their classes and their normalisation."""

    train: Rows
    val: Rows | None
    classes: NDArray[Any]
    """(C,) what the outputs stand for: classes, int64 or unicode, sorted; or the names of labels or numbers."""

    feature_names: tuple[str, ...]
    schema: InputSchema
    inputs: Inputs
    """The feature columns as the model keeps them: how their values become features."""

    normalization: Normalization
    """From the values of the files to the inputs of the net, for prediction; its statistics are the training rows'."""

    transform: BatchTransform
    """What is still to be done to the stored rows of a batch."""

    digest: str
    """SHA-256 of all of the above, whatever files, and however many, it was read from."""

    source: str
    """What messages call the training rows: a path, a glob, `digits`, or what was passed in memory."""

    description: str = ""
    """Which columns are features, and which were left out, in a line."""

    features: dict[str, Any] = field(default_factory=dict)
    """The same, complete: `used` (names), and `left_out` (the reason of each name)."""

    notices: tuple[str, ...] = ()
    """What was found out about the data and the user should know, one line each, in the order of reading."""

    blocks: Mapping[str, RowBlocks] = field(default_factory=dict)
    """Checksums by which changed rows are named, of the `training` and the `held-out` rows."""

    @functools.cached_property
    def bounds(self) -> RunBounds:
        """The bounds of all rows; found by going through them once."""
        val = None if self.val is None else bounds_of(self.val, self.transform)
        return RunBounds(bounds_of(self.train, self.transform), val)

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return sum(part.nbytes for part in (self.train, self.val) if part is not None)


def digest_of(
    train: Rows, val: Rows | None, classes: NDArray[Any], names: tuple[str, ...], normalization: Normalization
) -> str:
    """Return the SHA-256 of the types, shapes and bytes of all arrays, and of the names of features and classes."""
    parts = [train, *([val] if val else [])]
    described: list[Any] = []
    for rows in parts:
        kind, shape = rows.target
        described += [(rows.dtype.str, (len(rows), rows.features)), (kind.str, (len(rows), *shape))]
        described += [("<f4", (len(rows),))] if rows.weighted else []
    statistics = (normalization.shift, normalization.scale)
    head = {
        "arrays": [*described, *((array.dtype.str, array.shape) for array in statistics)],
        "classes": classes.tolist(),
        "names": names,
    }
    sha = hashlib.sha256(json.dumps(head).encode())
    for rows in parts:
        rows.update_digest(sha)
    for array in statistics:
        sha.update(array.tobytes())
    return sha.hexdigest()
