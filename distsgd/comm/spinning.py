"""Waiting for another process: polling for a moment where there are idle cores, and only then blocking.

Waking a process on an idle core takes about 40 µs, which is much of a small net's step and nothing of a large one's.
Who polls gives the core away in between, and stops after `SPIN_S` at the latest.
"""

from __future__ import annotations

import os
import select
import time

SPIN_S = 250e-6
"""Seconds that a wait polls at most before it blocks."""


def spin(poll: select.poll, count: int) -> None:
    """Return as soon as `count` of the descriptors are readable, or when it is time to block."""
    end = time.perf_counter() + SPIN_S
    while len(poll.poll(0)) < count and time.perf_counter() < end:
        os.sched_yield()


class SpinPolicy:
    """Polls for as long as waits have usually been, and not at all if they are long: the server then needs the core."""

    def __init__(self) -> None:
        self._usual_s = 0.0

    def spin_s(self) -> float:
        """Return the seconds to poll for."""
        return min(2 * self._usual_s + 50e-6, SPIN_S) if self._usual_s < SPIN_S else 0.0

    def learn(self, waited_s: float) -> None:
        """Take into account how long a wait was."""
        self._usual_s += 0.125 * (min(waited_s, 8 * SPIN_S) - self._usual_s)

    def wait(self, poll: select.poll) -> None:
        """Return when one of the descriptors is readable, however long that takes."""
        begun, ready = time.perf_counter(), poll.poll
        end = begun + self.spin_s()
        while not (found := ready(0)) and time.perf_counter() < end:
            os.sched_yield()
        if not found:
            ready(None)
        self.learn(time.perf_counter() - begun)
