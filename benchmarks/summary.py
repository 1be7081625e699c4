"""Medians, ratios and targets from measurements, as pure functions."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.contestants import BOUND, OURS
from benchmarks.shapes import Shape

TARGETS: dict[str, dict[str, float]] = {
    "3072-20-10": {"ddp": 4.0, "torch": 2.2, "sklearn": 2.6, "ray": 11.0, "bound": 0.85},
    "784-256-10": {"ddp": 2.8, "torch": 1.1, "sklearn": 1.7, "ray": 7.0, "bound": 0.90},
    "64-32-10": {"ddp": 7.0, "torch": 1.6, "sklearn": 2.0, "ray": 18.0},
    "3072-1024-10": {"ddp": 2.8, "torch": 1.3, "sklearn": 1.7, "ray": 4.0, "bound": 0.85},
}
"""Targets for the ratio of each contestant's step to distsgd's, with two workers on two cores."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """The results of one contestant for one shape."""

    contestant: str
    rounds: int
    median_ms: float
    fastest_ms: float
    slowest_ms: float
    ratio: float | None
    """Its median divided by distsgd's; None if distsgd was not measured."""
    target: float | None

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without a target or a ratio."""
        return None if self.target is None or self.ratio is None else self.ratio >= self.target


def rows(shape: Shape, measurements: Mapping[str, Sequence[float]]) -> list[Row]:
    """Return a row for each contestant in `measurements`, which has its step time in ms for each round."""
    ours = measurements.get(OURS.name)
    base = statistics.median(ours) if ours else None
    targets = TARGETS.get(shape.net, {})
    return [
        Row(
            contestant=name,
            rounds=len(times),
            median_ms=statistics.median(times),
            fastest_ms=min(times),
            slowest_ms=max(times),
            ratio=None if base is None else statistics.median(times) / base,
            target=targets.get(name),
        )
        for name, times in measurements.items()
        if times
    ]


def ratio_text(name: str, ratio: float | None) -> str:
    """Return a ratio as text: `2.40×`, or `85 %` for the bound."""
    if ratio is None:
        return "-"
    return f"{100 * ratio:.0f} %" if name == BOUND.name else f"{ratio:.2f}×"


def milliseconds(value: float) -> str:
    """Return a time with three significant digits."""
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def rotated(names: Sequence[str], round_number: int) -> list[str]:
    """Return the order for a round; each round starts with the next contestant."""
    if not names:
        return []
    start = round_number % len(names)
    return [*names[start:], *names[:start]]
