"""The buffers of a workspace, cut to the examples at hand."""

from __future__ import annotations

from typing import NamedTuple

from distsgd.core.net import Array


class PortableViews(NamedTuple):
    """A workspace's buffers for n examples, float64 unless said otherwise."""

    X: Array  # (n, D): features on their grid
    h: Array  # (n, H): hidden activations
    dh: Array  # (n, H): activations on their examples' grids, then the activations' gradient
    kept: Array  # (n, H): what the activation keeps for its backward pass
    s: Array  # (n, C), its transpose contiguous: scores, then probabilities, then the scores' gradient
    s_flat: Array  # (C n,): the same memory
    other: Array  # (n, C), laid out as `s`
    other_flat: Array  # (C n,): the same memory
    third: Array  # (n, C), laid out as `s`
    column: Array  # (n,)
    losses: Array  # (n,)
    rounders: Array  # (n, 1)
    weights: Array  # (n,)
    own: Array  # (n,) int64: where in `s_flat` the score of each example's own class is
    position: Array  # (n,) int64: 0, 1, ...
    ones: Array  # (n,)
