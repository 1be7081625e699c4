"""The nets that are timed, and the synthetic data that all contestants read."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

StoredType = Literal["float32", "uint8"]

DATA_BYTES = 128 * 2**20
"""Approximate size of a data set's float32 features: several times a last-level cache."""

MOST_ROWS = 2**18


@dataclass(frozen=True)
class Shape:
    """D features, H hidden units, C classes and the mini-batch size."""

    features: int
    hidden: int
    classes: int
    batch: int

    @property
    def net(self) -> str:
        """The net's name, `D-H-C`."""
        return f"{self.features}-{self.hidden}-{self.classes}"

    @property
    def parameters(self) -> int:
        """The number of weights and biases."""
        return self.features * self.hidden + self.hidden + self.hidden * self.classes + self.classes

    @property
    def rows(self) -> int:
        """Rows of its data set: a multiple of the mini-batch size, so that every mini-batch is full."""
        fitting = min(DATA_BYTES // (4 * self.features), MOST_ROWS)
        return max(fitting // self.batch, 4) * self.batch

    def __str__(self) -> str:
        return f"{self.net}@{self.batch}"


SHAPES = (
    Shape(64, 32, 10, 256),
    Shape(784, 256, 10, 256),
    Shape(3072, 20, 10, 256),
    Shape(3072, 1024, 10, 256),
    Shape(768, 512, 100, 1024),
)


def parse_shape(text: str) -> Shape:
    """Return the shape for `D-H-C` or `D-H-C@BATCH`. Raises ValueError for anything else."""
    match = re.fullmatch(r"(\d+)-(\d+)-(\d+)(?:@(\d+))?", text.strip())
    if match is None:
        raise ValueError(f"a shape is D-H-C or D-H-C@BATCH, such as 3072-20-10@256, and not {text!r}")
    features, hidden, classes = (int(match[i]) for i in (1, 2, 3))
    known = {shape.net: shape.batch for shape in SHAPES}
    shape = Shape(features, hidden, classes, int(match[4] or known.get(f"{features}-{hidden}-{classes}", 256)))
    if min(features, hidden, shape.batch) < 1 or classes < 2:
        raise ValueError(f"{text!r} has a size below 1, or fewer than 2 classes")
    return shape


def make_data(shape: Shape, stored: StoredType, folder: Path) -> Path:
    """Write the rows of `shape` to a folder inside `folder`, unless they exist, and return that folder.

    It contains X.npy (N, D) and y.npy (N,) int64 for the peers, and the same two arrays in data.npz for distsgd. The
    features are standard normal float32, or uniform uint8, which contestants divide by 255 in the mini-batch. Labels
    are random, with all classes equally frequent: what the net learns does not matter here.
    """
    target = folder / f"{shape.features}-{shape.classes}-{shape.rows}-{stored}"
    if (target / "data.npz").exists():
        return target
    target.mkdir(parents=True, exist_ok=True)
    rng = np.random.Generator(np.random.Philox(key=[0, shape.features]))
    size = (shape.rows, shape.features)
    X = rng.integers(0, 256, size, np.uint8) if stored == "uint8" else rng.standard_normal(size, np.float32)
    y = rng.permutation(np.arange(shape.rows) % shape.classes)
    np.save(target / "X.npy", X)
    np.save(target / "y.npy", y)
    partial = target / "partial.npz"
    np.savez(partial, X=X, y=y)
    os.replace(partial, target / "data.npz")
    return target
