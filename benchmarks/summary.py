"""From measurements to medians, ratios and targets; pure."""

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
"""How many times distsgd's step each contestant's should at least take, with two workers on two cores."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One contestant at one shape."""

    contestant: str
    rounds: int
    median_ms: float
    fastest_ms: float
    slowest_ms: float
    ratio: float | None
    """Its median over that of distsgd; None if distsgd has none."""
    target: float | None

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None if there is none, or nothing to compare."""
        return None if self.target is None or self.ratio is None else self.ratio >= self.target


def rows(shape: Shape, measurements: Mapping[str, Sequence[float]]) -> list[Row]:
    """Return a row for each contestant of `measurements`, which holds its step times, a round each, in ms."""
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
    """Return a ratio as people read it: `2.4×`, or for the bound, which is not to be beaten, `85 %` of it."""
    if ratio is None:
        return "-"
    return f"{100 * ratio:.0f} %" if name == BOUND.name else f"{ratio:.2f}×"


def milliseconds(value: float) -> str:
    """Return a time with three significant digits."""
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def rotated(names: Sequence[str], round_number: int) -> list[str]:
    """Return the order of a round: each begins one further on, so that none always follows the same one's heat."""
    if not names:
        return []
    start = round_number % len(names)
    return [*names[start:], *names[:start]]
