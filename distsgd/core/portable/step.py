"""The grids of a step: pure functions of what every process knows before it, so the step's sums are exact.

The forward pass, the hidden gradient and the sums over the mini-batch are exact products (widths.py) of

    A = X'W'           X' the features, W' = W1, both on one grid each
    S = h W2           h on a grid for each example, W2 on one
    dh = ds W2ᵀ        ds = ∂L/∂s on a fine grid
    ∂W2 = hᵀ ds        h on the grid of its bound, ds on a coarser one; the sum is over the whole mini-batch
    ∂W1 = X'ᵀ da       da = ∂L/∂a on the grid of its bound; likewise
    ∂b2 = Σ ds, ∂b1 = Σ da

Without a hidden layer S = X'W' with W' = W2, and ∂W2 = X'ᵀ ds. X' is X; or X_ij 2^−e_j where features differ much in
size, with W'_jk = W_jk 2^e_j, which is exact; or integers as they are stored, in which case A is multiplied by their
factor. ∂W1 is then 2^e_j or the factor times X'ᵀ da, which is applied to the sum over the mini-batch (update.py).
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import NamedTuple

import numpy as np

from distsgd.core.net import Array, Net, Parameters
from distsgd.core.portable.activations import ACTIVATIONS
from distsgd.core.portable.bounds import DataBounds
from distsgd.core.portable.grids import NARROW_BITS, largest, rounded
from distsgd.core.portable.losses import loss_of
from distsgd.core.portable.norms import column_squares, upper_root
from distsgd.core.portable.widths import BITS, WIDEST, balanced, exponent, finest

PIECE = 2**13
"""Inner dimensions above this are cut into pieces of so many, whose products are exact and are added in their order: an
operand of a longer one would keep fewer than 20 bits."""

MOST = 2**20
"""Examples of a mini-batch, and classes, at most: more would leave an operand fewer than 16 bits, or let the roundings
of ∂L/∂s add up to more than its bound allows for."""

LONG = 128
"""Features from which the length of rows and columns is looked at too: it is a tighter bound of sums of many terms."""

SMALL = 2**15
"""Parameters below which their largest are found together."""

FAVOURED = 4
"""Bits that the squared loss's gradient gets more than the other operand: its bound is that of all possible scores, and
far above what it is, while the others' gradients are bounded by 1."""

ABOVE = 1 + 2.0**-20
"""A factor for bounds that float64 computes with roundings, none of which is as large as this together."""

BOUNDARY = 2.0**900
"""Bounds beyond this, and numbers that are not finite, have no grid."""


NARROWEST = -100
"""The least exponent, and minus the largest, of a power of two that float32 features may be divided by or be rounded to
in float32."""


class StepGrids(NamedTuple):
    """The quanta of a step's grids, as exponents of two."""

    data: Grids
    finite: bool
    """Whether there are grids at all: parameters and data are finite."""
    W: int
    """Of the first layer's weights W'."""
    W2: int
    """Of W2, where there is a hidden layer."""
    h: int
    """Of h in ∂W2."""
    ds: int
    """Of ∂L/∂s in dh and ∂b2."""
    ds_coarse: int
    """Of ∂L/∂s in ∂W2."""
    da: int
    """Of ∂L/∂a."""
    loss: int
    """Of each example's loss, multiplied by its weight."""
    gradient: tuple[int, int, int, int]
    """Of the sums of the gradients of W1, b1, W2, b2: multiples of 2^this, at most 2^53 times as large. W1's, or W2's
    without a hidden layer, are in the units of X'."""


class Grids:
    """What a run's grids have in common, and the grids of each of its steps."""

    def __init__(self, net: Net, bounds: DataBounds, batch_size: int, xp: ModuleType = np) -> None:
        """`batch_size` is the largest number of examples whose sums are to be exact: a whole mini-batch's."""
        if net.features != len(bounds.by_feature):
            raise ValueError(f"bounds of {len(bounds.by_feature)} features, a net of {net.features}")
        if max(batch_size, net.classes) > MOST:
            raise ValueError(
                f"{batch_size} examples and {net.classes} classes; exact sums take at most {MOST} of either"
            )
        self.net, self.bounds, self.xp = net, bounds, xp
        self._starts = [part.start for part in net.bounds if part.stop > part.start]
        self._batch = exponent(batch_size)
        self._finite = bounds.finite
        self._loss = loss_of(net)
        self._favoured = FAVOURED if net.loss == "squared" else 0
        self._activation = ACTIVATIONS[net.activation] if net.hidden else None
        self.integers = bounds.integers
        self.feature_factors: Array | None = None
        """2^e_j (D,) float64, if features have powers of two of their own."""
        self.feature_divisors: Array | None = None
        """Their reciprocals."""
        self.narrow_divisors: Array | None = None
        """The same as float32, if `fits_float32`."""
        self.factor = bounds.factor
        """What products with X' are multiplied by."""
        if bounds.exponents is not None:
            self.feature_factors = xp.asarray(np.ldexp(1.0, bounds.exponents))
            self.feature_divisors = xp.asarray(np.ldexp(1.0, -bounds.exponents))
        self.pieces = pieces(net.features)
        self.hidden_pieces = pieces(net.hidden) if net.hidden else []
        self._hidden_sum = exponent(min(net.hidden, PIECE))
        """Σ_j |h_ij| over a piece, over the bound of h_ij: its exponent."""
        self.hidden_bits = (BITS - self._hidden_sum) // 2
        """Bits of h below the largest one of an example."""
        self._weight = exponent(bounds.weight) if self._finite else 0
        self.weight_quantum = self._weight + max(self._batch - BITS, -WIDEST)
        """Of the examples' weights."""
        if self._finite:
            self._set_features()

    def _set_features(self) -> None:
        """Find the grid of X', a bound of a row's sum and the exponent of that of a piece of a row."""
        bounds, features = self.bounds, self.net.features
        top, row_sum = bounds.largest, bounds.row_sum
        if bounds.exponents is not None:
            top, row_sum = 1.0, float(features)
        self._top = exponent(top)
        length = min(features, PIECE) * 2.0**self._top
        narrow = bounds.exponents is None and bounds.grid is not None
        self.exact = narrow
        """Whether X' is on its grid as it is."""
        if narrow and bounds.grid is not None:
            self.X = min(bounds.grid, self._top - 1)
            self._sum = exponent(min(row_sum, length))
        else:
            row_sum = min(row_sum + features * 2.0 ** (self._top - 12), features * 2.0**self._top)
            self._sum = exponent(min(row_sum, length))
            bits = min((BITS - (self._sum - self._top)) // 2, (BITS - self._batch) // 2)
            if bits < 12:
                self._sum = exponent(length)
                bits = min((BITS - (self._sum - self._top)) // 2, (BITS - self._batch) // 2)
            self.X = self._top - bits
        self.X_backward = self.X if narrow else self.X + self._favoured
        """X' is rounded to this for the gradients."""
        self.fits_float32 = self._top - self.X <= NARROW_BITS and NARROWEST <= self.X <= -NARROWEST
        """Whether float32 features can be rounded to their grid in float32."""
        exponents = bounds.exponents
        if exponents is not None and int(np.abs(exponents).max()) > -NARROWEST:
            self.fits_float32 = False
        elif exponents is not None:
            # What becomes subnormal by its division, and inexact, rounds to 0 as it would if it were exact.
            self.narrow_divisors = self.xp.asarray(np.ldexp(1.0, -exponents).astype(np.float32))
        self._row_sum = row_sum
        norm = math.sqrt(features if bounds.exponents is not None else bounds.row_square)
        self._row_norm = (norm + math.sqrt(features) * (0.0 if narrow else 2.0 ** (self.X - 1))) * ABOVE

    def weight(self, weights: Array | None, count: int) -> float:
        """Return the exact sum of the weights (n,) of `count` examples, each rounded to the weights' grid."""
        if weights is None:
            return float(count)
        exact = weights.astype(self.xp.float64)
        return float(rounded(exact, self.weight_quantum, exact, self.xp).sum())

    def of(self, parameters: Parameters) -> StepGrids:
        """Return the grids of a step with these parameters, float32."""
        W1, _, W2, _ = parameters
        tops = self._largest(parameters)
        if not self._finite or not all(map(math.isfinite, tops)):
            return self._without()
        first = W1 if self.net.hidden else W2
        top_first = tops[2] if self.net.hidden else tops[0]
        if self.feature_factors is not None:
            top_first = self._largest_of_scaled(first)
        top_W = exponent(top_first)
        W = finest(self._sum, self.X, top_W)
        slack = 2.0 ** (W - 1)
        pre = self._row_sum * (top_first + slack)
        squares = None
        if self.net.features >= LONG or self._favoured:
            squares = column_squares(first, self.xp, self.feature_factors)
            longest = upper_root(float(squares.max()))
            pre = min(pre, self._row_norm * (longest + math.sqrt(self.net.features) * slack))
        pre *= abs(self.factor) * ABOVE
        if self._activation is None:
            return self._of_scores(pre + tops[1], W)
        pre += tops[3]
        top_h = pre * ABOVE if self._activation.largest is None else self._activation.largest
        top_W2 = exponent(tops[0])
        q_W2 = top_W2 + max(self._hidden_sum + self.hidden_bits - BITS, -WIDEST)
        hidden_length = math.sqrt(self.net.hidden)
        length = hidden_length * top_h
        steep = top_W2_rounded = tops[0] + 2.0 ** (q_W2 - 1)
        longest_W2 = hidden_length * top_W2_rounded
        if squares is not None and self._favoured:
            if self._activation.largest is None:
                all_W = upper_root(float(squares.sum())) + math.sqrt(self.net.features) * hidden_length * slack
                length = min(length, self._row_norm * all_W * abs(self.factor) + hidden_length * tops[3])
            columns = upper_root(float(column_squares(W2, self.xp).max()))
            longest_W2 = min(longest_W2, columns + hidden_length * 2.0 ** (q_W2 - 1))
            rows, C = upper_root(float(column_squares(W2.T, self.xp).max())), math.sqrt(self.net.classes)
            steep = min(steep, (rows + C * 2.0 ** (q_W2 - 1)) / C)
        scores = length * longest_W2 * ABOVE + tops[1]
        return self._of_scores(scores, W, (steep, exponent(top_h), top_W2, q_W2))

    def _of_scores(self, scores: float, W: int, hidden: tuple[float, int, int, int] | None = None) -> StepGrids:
        """Return the grids from a bound of the scores.

        `hidden` has a bound of |dh_ij| over that of Σ_k |∂L/∂s_ik|, and the exponents of the bound of h, of max|W2|
        and of W2's grid.
        """
        weight = self.bounds.weight
        bounds = self._loss.bounds(self.net.classes, scores * ABOVE, self.bounds.target)
        if not max(bounds) * max(weight, 1.0) < BOUNDARY:
            return self._without()
        top_ds = exponent(bounds.gradient * weight)
        loss = exponent(bounds.loss * weight * ABOVE) + max(self._batch - BITS, -WIDEST)
        ds_sum = bounds.gradient_sum * weight * (1 + 2.0**-6)  # the rest is for the rounding to ds
        ds = max(top_ds - WIDEST, self._batch + top_ds - BITS)
        if hidden is None:
            coarse = finest(self._batch + self._top, self.X_backward, top_ds)
            return StepGrids(self, True, W, 0, 0, ds, coarse, 0, loss, (0, 0, self.X_backward + coarse, ds))
        assert self._activation is not None
        top, top_h, top_W2, W2 = hidden
        ds = max(ds, exponent(ds_sum) + top_W2 - BITS - W2)
        da_bound = ds_sum * top * self._activation.steepest
        da = finest(self._batch + self._top, self.X_backward, exponent(da_bound * ABOVE))
        h = balanced(self._batch + top_h, top_h, 0)[0] + max(self._favoured - 1, 0)
        coarse = finest(self._batch + top_h, h, top_ds)
        return StepGrids(self, True, W, W2, h, ds, coarse, da, loss, (self.X_backward + da, da, h + coarse, ds))

    def _without(self) -> StepGrids:
        return StepGrids(self, False, 0, 0, 0, 0, 0, 0, 0, (0, 0, 0, 0))

    def _largest(self, parameters: Parameters) -> list[float]:
        """Return max|W2|, max|b2| and, with a hidden layer, max|W1| and max|b1|."""
        W1, b1, W2, b2 = parameters
        flat = b2.base if isinstance(b2, np.ndarray) else None
        if flat is not None and flat.shape == (self.net.size,) and flat.size < SMALL:
            tops = np.maximum.reduceat(np.absolute(flat), self._starts).tolist()  # of a small net, 5 µs instead of 25
            return [*tops[-2:], *tops[:-2]]
        return [largest(W2), largest(b2)] + ([largest(W1), largest(b1)] if self.net.hidden else [])

    def _largest_of_scaled(self, W: Array) -> float:
        """Return max_jk |W_jk| 2^e_j, which is exact."""
        rows = self.xp.maximum(W.max(axis=1), -W.min(axis=1)).astype(self.xp.float64)
        return float((rows * self.feature_factors).max())


def pieces(size: int) -> list[slice]:
    """Return the pieces that an inner dimension is cut into."""
    return [slice(start, min(start + PIECE, size)) for start in range(0, size, PIECE)]
