"""The state of training between two steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Everything needed to resume training from the end of a step."""

    step: int
    parameters: np.ndarray  # (P,) float32
    slots: Mapping[str, np.ndarray] = field(default_factory=dict)
    """The update rule's state vectors (P,) float32, by name."""
    skipped: int = 0
    """Steps whose update was not applied because it was not finite."""
    last_record: dict[str, Any] = field(default_factory=dict)
    """The newest journal record; validation adds to it if the step is the last of an epoch."""
