"""What has to be known of all training rows before the first step: how large their numbers are, and how fine."""

from __future__ import annotations

import functools
import json
import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distsgd.core.portable.widths import exponent

INTEGERS = ("bool", "int8", "uint8", "int16", "uint16")
"""Types of stored features that go into a product as they are: all of their numbers have 16 bits at most."""

NARROW = 16
"""Bits below its largest number up to which a table's numbers count as integers times a power of two."""

SPREAD = 8
"""Each feature gets a power of two of its own if their largest values differ by a factor of 2^SPREAD."""

ZEROS = 1000
"""The grid's exponent for zeros, which are multiples of everything."""

BLOCK = 2**17
"""Numbers that are looked at together."""


def stored_as_integers(dtype: Any, *, shifted: bool, scales: int) -> bool:
    """Return whether rows of this type go into products as they are stored.

    That is so unless their normalisation subtracts something, or has another factor for each of several features;
    `scales` is the number of its factors, 0 if it has none.
    """
    return np.dtype(dtype).name in INTEGERS and not shifted and scales <= 1


@dataclass(frozen=True, kw_only=True)
class DataBounds:
    """Bounds of the features, weights and targets of a set of rows. They do not depend on the rows' order.

    Features are taken as the net gets them: float32, or the integers that `factor` is to be multiplied with.
    """

    integers: bool
    """Whether the features are integers as they are stored."""
    factor: float
    """What the integers are multiplied by; 1 for float32."""
    by_feature: tuple[float, ...]
    """The largest |x| of each feature; NaN or ∞ if one is not finite."""
    row_sum: float
    """A bound of Σ_j |x_ij| of each row."""
    row_square: float
    """A bound of Σ_j x_ij² of each row."""
    grid: int | None
    """The e of a power of two 2^e that all features are multiples of; None if it is too small to be of use."""
    weight: float = 1.0
    """The largest weight of an example."""
    target: float = 0.0
    """The largest |y| of targets that are real numbers; 0 for others."""

    @classmethod
    def of(cls, X: NDArray[Any], y: Any = None, weights: Any = None, factor: float = 1.0) -> DataBounds:
        """Return the bounds of a block of rows X (n, D), float32 or integers, n ≥ 1.

        With targets y (n, C) float32 and weights (n,), if there are such. Other targets have no bound, and are ignored.
        """
        integers = X.dtype.kind != "f"
        largest, row_sum, row_square, grid = np.zeros(X.shape[1]), 0.0, 0.0, None
        count = max(1, BLOCK // X.shape[1])
        with np.errstate(invalid="ignore", over="ignore"):
            for start in range(0, len(X), count):
                rows = np.abs(X[start : start + count].astype(np.float64))
                largest = np.maximum(largest, rows.max(axis=0))
                if start == 0 or grid is not None:
                    top = float(largest.max())
                    grid = 0 if integers else _merged_grid(grid, _grid(rows, top), top, first=start == 0)
                row_sum = float(np.maximum(row_sum, halved(rows.T).max()))
                row_square = float(np.maximum(row_square, halved(np.square(rows.T)).max()))
        is_number = y is not None and np.asarray(y).dtype.kind == "f"
        return cls(
            integers=integers,
            factor=float(factor),
            by_feature=tuple(largest.tolist()),
            row_sum=row_sum if integers else row_sum * (1 + 2.0**-40),  # more than the roundings of its additions
            row_square=row_square * (1 + 2.0**-40),
            grid=grid,
            weight=1.0 if weights is None else float(np.abs(weights).max()),
            target=float(np.abs(y).max()) if is_number else 0.0,
        )

    def merged(self, other: DataBounds) -> DataBounds:
        """Return the bounds of these rows and others of the same table; ValueError if they cannot be of one."""
        for name in ("integers", "factor"):
            if getattr(self, name) != getattr(other, name):
                raise ValueError(f"{name} is {getattr(self, name)} here and {getattr(other, name)} there")
        if len(self.by_feature) != len(other.by_feature):
            raise ValueError(f"{len(self.by_feature)} features here, {len(other.by_feature)} there")
        by_feature = np.maximum(self.by_feature, other.by_feature)
        return DataBounds(
            integers=self.integers,
            factor=self.factor,
            by_feature=tuple(by_feature.tolist()),
            row_sum=float(np.maximum(self.row_sum, other.row_sum)),
            row_square=float(np.maximum(self.row_square, other.row_square)),
            grid=_merged_grid(self.grid, other.grid, float(by_feature.max()), first=False),
            weight=float(np.maximum(self.weight, other.weight)),
            target=float(np.maximum(self.target, other.target)),
        )

    @functools.cached_property
    def largest(self) -> float:
        """The largest |x|; NaN or ∞ if one is not finite."""
        return float(np.max(self.by_feature))

    @property
    def finite(self) -> bool:
        """Whether all that is bounded is finite."""
        return all(map(math.isfinite, (self.largest, self.row_sum, self.weight, self.target, self.factor)))

    @functools.cached_property
    def exponents(self) -> NDArray[np.int64] | None:
        """The power of two for each feature (D,) that its values are divided by; None if one range fits all."""
        if self.integers or not self.finite:
            return None
        found = [exponent(x) if x else None for x in self.by_feature]
        known = [e for e in found if e is not None]
        if not known or max(known) - min(known) <= SPREAD:
            return None
        return np.array([0 if e is None else e for e in found])

    def to_json(self) -> str:
        """Return the bounds as JSON, which `from_json` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> DataBounds:
        """Return the bounds that `to_json` wrote."""
        found = json.loads(text)
        return cls(**found | {"by_feature": tuple(found["by_feature"])})


def halved(values: Any) -> Any:
    """Return the sums over the first axis of values (m, ...), added in an order that depends on m alone.

    The second half is added to the first one until one row is left; `values` is left as it is.
    """
    while len(values) > 1:
        half = len(values) // 2
        odd = values[2 * half :]
        values = values[:half] + values[half : 2 * half]
        if len(odd):
            values[0] += odd[0]
    return values[0]


def _grid(rows: NDArray[np.float64], top: float) -> int | None:
    """Return the exponent of the largest power of two that all values are multiples of, if it is within reach."""
    if not math.isfinite(top):
        return None
    if not top:
        return ZEROS
    lowest = exponent(top) - NARROW
    steps = np.ldexp(rows, -lowest)
    whole = np.rint(steps)
    if not (whole == steps).all():
        return None
    pattern = np.bitwise_or.reduce(whole.astype(np.int64), axis=None)
    trailing = (int(pattern) & -int(pattern)).bit_length() - 1
    return lowest + trailing


def _merged_grid(left: int | None, right: int | None, top: float, *, first: bool) -> int | None:
    """Return the exponent of the grid of both sets of numbers, None if it is out of reach of the largest number."""
    if first:
        return right
    if left is None or right is None or not math.isfinite(top):
        return None
    grid = min(left, right)
    return grid if exponent(top) - grid <= NARROW else None
