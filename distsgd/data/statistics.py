"""What computes statistics of the rows, for each `train.arithmetic`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from distsgd.core.portable.bounds import halved
from distsgd.data.normalization import Moments, Normalization
from distsgd.data.portable_moments import PortableMoments


class StreamMoments(Protocol):
    """Mean and variance of the columns of a stream of rows; see normalization.Moments."""

    def add(self, rows: NDArray[Any], weights: NDArray[np.float64] | None = None) -> None: ...  # noqa: D102
    def normalization(self, names: tuple[str, ...]) -> Normalization: ...  # noqa: D102


class Statistics(NamedTuple):
    """The functions that differ."""

    moments: Callable[..., StreamMoments]
    """See normalization.Moments."""
    summed: Callable[[NDArray[Any]], float]
    """Returns the sum of values (n,)."""
    mean: Callable[[NDArray[Any]], float]
    """Returns the mean of values (n,), n ≥ 1."""


def rounded_sum(values: NDArray[Any]) -> float:
    """Return the sum of values (n,), in whatever order NumPy adds them."""
    return float(values.sum())


def halved_sum(values: NDArray[Any]) -> float:
    """Return the sum of values (n,) in float64, in an order that depends on n alone."""
    return float(halved(values.astype(np.float64))) if len(values) else 0.0


def rounded_mean(values: NDArray[Any]) -> float:
    """Return the mean of values (n,), added in float64 in whatever order NumPy adds them."""
    return float(values.mean(dtype=np.float64))


def halved_mean(values: NDArray[Any]) -> float:
    """Return the mean of values (n,), added as `halved_sum` adds."""
    return halved_sum(values) / len(values)


FAST = Statistics(Moments, rounded_sum, rounded_mean)

STATISTICS = {"fast": FAST, "portable": Statistics(PortableMoments, halved_sum, halved_mean)}
"""By the values of `train.arithmetic`."""
