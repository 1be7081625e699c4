"""Which of two ways to do the same thing is the faster one, here and now."""

from __future__ import annotations

import statistics

TRIED = 8
"""Measurements of each way before one is chosen."""

KEPT = 2000
"""Uses of the chosen way until both are measured again: the machine may have got busier, or less busy, since."""


class Faster:
    """Chooses between way 0 and way 1, whose results are equal, by the medians of their durations."""

    def __init__(self) -> None:
        self._durations: tuple[list[float], list[float]] = ([], [])
        self._chosen, self._left = 0, 0

    def way(self) -> int:
        """Return the way to use now: each in turn while they are measured."""
        if self._left:
            return self._chosen
        first, second = self._durations
        return int(len(second) < len(first))

    def learn(self, way: int, duration_s: float) -> None:
        """Take note of how long a use of a way took, in seconds."""
        if self._left:
            self._left -= 1
            return
        self._durations[way].append(duration_s)
        if min(map(len, self._durations)) >= TRIED:
            medians = [statistics.median(found) for found in self._durations]
            self._chosen, self._left = medians.index(min(medians)), KEPT
            self._durations = ([], [])
