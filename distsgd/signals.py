"""SIGINT and SIGTERM as a wish to stop, noted and acted on at the next step boundary."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopWish:
    """Holds the number of the stop signal that came, or None."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self._noted = math.inf

    def note(self, signum: int) -> None:
        """Take in a signal."""
        self.signum, self._noted = signum, time.monotonic()

    def age_s(self) -> float:
        """Return the seconds since the signal came; negative without end if none has come."""
        return time.monotonic() - self._noted


@contextlib.contextmanager
def noted_stop_signals() -> Iterator[StopWish]:
    """Note stop signals while the context lasts; a second one acts as if there were no context.

    Outside the main thread, where Python allows no handlers, nothing is ever noted.
    """
    wish = StopWish()
    if threading.current_thread() is not threading.main_thread():
        yield wish
        return
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}

    def note(signum: int, _: FrameType | None) -> None:
        wish.note(signum)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    for signum in SIGNALS:
        signal.signal(signum, note)
    try:
        yield wish
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
