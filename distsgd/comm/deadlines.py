"""How long a peer may take for its shards before it counts as hanging: a fixed time, or one learned from its answers.

A peer that has answered before gets FACTOR times as long as it usually takes, and never less than FLOOR_S: so nobody is
lost on a machine on which everything takes ten times as long for a while. What it has not shown yet takes longer, such
as loading libraries and rows: up to FIRST_S for its first answer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal, Self

Timeout = float | Literal["auto"]
"""What `run.timeout_s` may be."""

FLOOR_S = 10.0
"""Least seconds after which a peer counts as hanging, if they are learned."""

FACTOR = 20.0
"""How many times longer than usual an answer may take."""

FIRST_S = 60.0
"""Seconds for the first answer of a peer."""

SLOWEST_LINK = 2e6
"""Bytes per second that a connection between nodes carries at least, even if it is shared with others."""

BEHIND_AGGREGATOR, FIXED_BEHIND_AGGREGATOR = 0.8, 0.5
"""Fractions for an aggregator's workers: they have to time out, and others compute their shards, before it does."""

BETWEEN_MEMBERS = 1.5
"""Factor for nodes that wait for each other; the server, which waits for all of them, can do more about it."""

GROWTH = 2.0
"""How many times longer one slow answer can make the usual time; so a single one has little effect."""

DECAY = 0.9
"""Fraction of the usual time that remains after an answer that took less."""


def transfer_s(timeout_s: Timeout, size: int) -> float:
    """Return the seconds that it may take to send a vector of `size` bytes, or to fetch one that is ready."""
    return FLOOR_S + size / SLOWEST_LINK if timeout_s == "auto" else timeout_s


class Deadlines:
    """The timeouts of the peers of one dispatcher, which are named by their descriptors.

    Steps of small nets take less than 0.1 ms. So nothing has to be called in a step that is over within milliseconds,
    as long as `unsettled` is empty.
    """

    def __init__(self, *, least_s: float, first_s: float, factor: float) -> None:
        """Allow `first_s` for a peer's first answer, then `factor` times its usual time, but at least `least_s`."""
        self.least_s = least_s
        """No peer has a shorter timeout."""
        self.unsettled: set[int] = set()
        """Peers whose timeout is not `least_s` yet, or no longer: they have to `learn` from every answer."""
        self._first_s, self._factor = first_s, factor
        # Whatever is shorter than this leads to `least_s`.
        self._quick_s = least_s / factor if factor else math.inf
        self._usual_s: dict[int, float] = {}  # a maximum that decays, for as many shards as the peer has in a step
        self._shards: dict[int, int] = {}

    @classmethod
    def fixed(cls, timeout_s: float) -> Self:
        """Return deadlines that nothing is learned for."""
        return cls(least_s=timeout_s, first_s=timeout_s, factor=0.0)

    @classmethod
    def for_server(cls, timeout_s: Timeout) -> Self:
        """Return the deadlines of a server's peers."""
        return cls._part(timeout_s, 1.0, 1.0)

    @classmethod
    def for_aggregator(cls, timeout_s: Timeout) -> Self:
        """Return the deadlines of an aggregator's workers, which are earlier than that of the aggregator."""
        return cls._part(timeout_s, BEHIND_AGGREGATOR, FIXED_BEHIND_AGGREGATOR)

    @classmethod
    def for_member(cls, timeout_s: Timeout) -> Self:
        """Return the deadlines of nodes that wait for each other's slices: the server is to notice a problem first."""
        return cls._part(timeout_s, BETWEEN_MEMBERS, BETWEEN_MEMBERS)

    @classmethod
    def _part(cls, timeout_s: Timeout, part: float, fixed_part: float) -> Self:
        """Return `part` of the deadlines that are learned, or `fixed_part` of a fixed timeout."""
        if timeout_s != "auto":
            return cls.fixed(fixed_part * timeout_s)
        return cls(least_s=part * FLOOR_S, first_s=part * FIRST_S, factor=part * FACTOR)

    def expect(self, assigned: Iterable[tuple[int, int]]) -> None:
        """Note which peers compute from the next step on, and the number of shards of each.

        A peer that gets more shards than before may take longer in proportion.
        """
        self.unsettled = set()
        for descriptor, shards in assigned:
            usual_s = self._usual_s.get(descriptor)
            if usual_s is not None:
                usual_s = self._usual_s[descriptor] = usual_s * max(1.0, shards / self._shards[descriptor])
            self._shards[descriptor] = shards
            self._settle(descriptor, usual_s)

    def learn(self, descriptor: int, shards: int, took_s: float) -> None:
        """Note how long a peer took for as many shards as it has in a step; nothing follows from fewer or more."""
        if self._shards.get(descriptor) != shards:
            return
        usual_s = self._usual_s.get(descriptor)
        if usual_s is None:
            usual_s = took_s
        elif took_s > usual_s:
            usual_s = min(took_s, GROWTH * max(usual_s, self._quick_s))
        else:
            usual_s = max(took_s, DECAY * usual_s)
        self._usual_s[descriptor] = usual_s
        self._settle(descriptor, usual_s)

    def _settle(self, descriptor: int, usual_s: float | None) -> None:
        if usual_s is None or usual_s > self._quick_s:
            self.unsettled.add(descriptor)
        else:
            self.unsettled.discard(descriptor)

    def timeout_s(self, descriptor: int, shards: int) -> float:
        """Return the seconds that a peer may take for a number of shards."""
        usual_s = self._usual_s.get(descriptor)
        if usual_s is None:
            return self._first_s
        return max(self.least_s, self._factor * usual_s * max(1.0, shards / self._shards[descriptor]))

    def forget(self, descriptor: int) -> None:
        """Forget a peer, which is lost, or does what it has not done before. Any thread may call this."""
        self._usual_s.pop(descriptor, None)
        self.unsettled.discard(descriptor)
