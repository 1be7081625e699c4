"""Which parts of a run are trained again: from a state that is there to the next one that is recorded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Segment:
    """Steps that are trained again, from the state after `start` steps to that after `stop` steps."""

    start: int
    stop: int


def whole(end: int) -> list[Segment]:
    """Return all of a run of `end` steps as one segment."""
    return [Segment(0, end)]


def chosen(starts: Iterable[int], recorded: Iterable[int], count: int) -> tuple[list[Segment], int]:
    """Return up to `count` segments, evenly spread over those that there are, and how many there are.

    `starts` are the steps whose states are there, `recorded` those whose states or digests are.
    """
    targets = sorted(set(recorded))
    following = ((start, next((step for step in targets if step > start), None)) for start in sorted(set(starts)))
    found = [Segment(start, stop) for start, stop in following if stop is not None]
    if count >= len(found):
        return found, len(found)
    last = len(found) - 1
    places = {round(number * last / max(1, count - 1)) for number in range(count)}
    return [found[place] for place in sorted(places)], len(found)
