"""The buffers of a workspace, cut to the examples at hand: what activations and losses work on.

This file is copied into every model that is logged to MLflow, so it needs NumPy alone.
"""

from __future__ import annotations

from typing import NamedTuple

from .net import Array


class Views(NamedTuple):
    """A workspace's buffers for n examples."""

    h: Array  # (n, H): hidden activations
    dh: Array  # (n, H): their gradient
    kept: Array  # (n, H): what the activation keeps for its backward pass
    s: Array  # (n, C), its transpose contiguous: scores, then probabilities, then the scores' gradient
    s_flat: Array  # (C n,): the same memory
    other: Array  # (n, C), laid out as `s`: for losses that need it
    column: Array  # (n,)
    losses: Array  # (n,)
    own: Array  # (n,) int64: where in `s_flat` the score of each example's own class is
    position: Array  # (n,) int64: 0, 1, ...
    ones: Array  # (n,)
