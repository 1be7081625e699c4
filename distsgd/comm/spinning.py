"""Waiting for another process: poll briefly if there are idle cores, then block.

Waking up a process on an idle core takes about 40 µs, a large part of a small net's step and negligible for a large
one; on a busy host of virtual machines, where an idle core is taken away, it can take a millisecond. A polling thread
yields the core between polls, and blocks after `SPIN_S`, or the limit of its policy, at the latest.
"""

from __future__ import annotations

import os
import select
import time

from distsgd.system.faster import Faster

SPIN_S = 250e-6
"""Maximum time that a wait polls before it blocks, in seconds."""

WORKER_SPIN_S = 2e-3
"""The same, where it pays, for a worker that waits for the server of its node. Its core stays awake for the server's
update, which takes no longer for a million parameters. With more, the server has threads that need the cores."""


def spin(poll: select.poll, count: int) -> None:
    """Poll until `count` of the descriptors are readable, or for `SPIN_S`."""
    end = time.perf_counter() + SPIN_S
    while len(poll.poll(0)) < count and time.perf_counter() < end:
        os.sched_yield()


class SpinPolicy:
    """Polls about as long as recent waits took, and not at all if they were long: the server then needs the core.

    Of two limits the one is used with which the steps, from the end of one wait to that of the next, take less time:
    where other programs want the cores as well, a thread that polls has used up its turn when there is work for it.
    """

    def __init__(self, limit_s: float = SPIN_S, other_limit_s: float | None = None) -> None:
        """`limit_s` is the longest that a wait polls for; with `other_limit_s` it may also be that."""
        self._limits_s = (limit_s,) if other_limit_s is None else (limit_s, other_limit_s)
        self._longest_s = max(self._limits_s)
        self._faster = None if other_limit_s is None else Faster()
        self._way, self._usual_s, self._ended = 0, 0.0, 0.0

    def spin_s(self) -> float:
        """Return the seconds to poll for."""
        limit_s = self._limits_s[self._way]
        return min(2 * self._usual_s + 50e-6, limit_s) if self._usual_s < limit_s else 0.0

    def learn(self, waited_s: float) -> None:
        """Update the moving average with the duration of a wait."""
        self._usual_s += 0.125 * (min(waited_s, 8 * self._longest_s) - self._usual_s)

    def wait(self, poll: select.poll, timeout_ms: float | None = None) -> list[tuple[int, int]]:
        """Wait until one of the descriptors is ready, without a timeout unless there is one; return what is ready."""
        if self._faster is not None:
            self._way = self._faster.way()
        begun, ready = time.perf_counter(), poll.poll
        end = begun + self.spin_s()
        while not (found := ready(0)) and time.perf_counter() < end:
            os.sched_yield()
        if not found:
            found = ready(timeout_ms)
        now = time.perf_counter()
        self.learn(now - begun)
        if self._faster is not None:
            self._faster.learn(self._way, now - self._ended)
            self._ended = now
        return found
