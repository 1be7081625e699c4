"""How far numbers may be apart that were computed with other arithmetic: other last bits, amplified by training."""

from __future__ import annotations

from typing import Any

import numpy as np

VECTORS = 1e-2
"""Largest distance of two vectors of parameters or state, relative to the length of the recorded one (Euclidean)."""

FIGURES = 1e-2
"""Largest difference of two losses or scores, relative to the recorded one or, if that is below 1, absolute."""

LARGEST = float(np.finfo(np.float64).max)
"""Of an infinite loss, nothing would be too far away."""

JUMPING = ("recall", "balanced_accuracy", "macro_f1", "best_epoch")
"""Figures that one row of a rare class may change by a lot: with other arithmetic these are not compared."""

STATED = f"vectors within {VECTORS:g} of their length, losses and scores within {FIGURES:g}"


def vectors_agree(recorded: np.ndarray, found: np.ndarray) -> bool:
    """Return whether two vectors (P,) agree within the tolerance."""
    length = float(np.linalg.norm(recorded.astype(np.float64)))
    return float(np.linalg.norm(found.astype(np.float64) - recorded)) <= VECTORS * max(length, 1e-30)


def figures_agree(name: str, recorded: Any, found: Any) -> bool:
    """Return whether two losses or scores, named as in the journal or the result, agree within the tolerance."""
    if name.rpartition("/")[2].removeprefix("val_") in JUMPING:
        return True
    finite = all(type(value) in (int, float) and abs(value) <= LARGEST for value in (recorded, found))
    return finite and abs(found - recorded) <= FIGURES * max(1.0, abs(recorded))
