"""Waiting for another process: poll briefly if there are idle cores, then block.

Waking up a process on an idle core takes about 40 µs, a large part of a small net's step and negligible for a large
one; on a busy host of virtual machines, where an idle core is taken away, it can take a millisecond. A polling thread
yields the core between polls, and blocks after `SPIN_S`, or the limit of its policy, at the latest.
"""

from __future__ import annotations

import os
import select
import time

SPIN_S = 250e-6
"""Maximum time that a wait polls before it blocks, in seconds."""

WORKER_SPIN_S = 2e-3
"""The same for a worker that waits for the server of its node. Its core stays awake for the server's update, which
takes no longer than this for a million parameters; for more of them the server has threads that need the cores."""


def spin(poll: select.poll, count: int) -> None:
    """Poll until `count` of the descriptors are readable, or for `SPIN_S`."""
    end = time.perf_counter() + SPIN_S
    while len(poll.poll(0)) < count and time.perf_counter() < end:
        os.sched_yield()


class SpinPolicy:
    """Polls about as long as recent waits took, and not at all if they were long: the server then needs the core."""

    def __init__(self, limit_s: float = SPIN_S) -> None:
        """`limit_s` is the longest that a wait polls for."""
        self._limit_s, self._usual_s = limit_s, 0.0

    def spin_s(self) -> float:
        """Return the seconds to poll for."""
        return min(2 * self._usual_s + 50e-6, self._limit_s) if self._usual_s < self._limit_s else 0.0

    def learn(self, waited_s: float) -> None:
        """Update the moving average with the duration of a wait."""
        self._usual_s += 0.125 * (min(waited_s, 8 * self._limit_s) - self._usual_s)

    def wait(self, poll: select.poll, timeout_ms: float | None = None) -> list[tuple[int, int]]:
        """Wait until one of the descriptors is ready, without a timeout unless there is one; return what is ready."""
        begun, ready = time.perf_counter(), poll.poll
        end = begun + self.spin_s()
        while not (found := ready(0)) and time.perf_counter() < end:
            os.sched_yield()
        if not found:
            found = ready(timeout_ms)
        self.learn(time.perf_counter() - begun)
        return found
