"""SIGINT and SIGTERM as a wish to stop, noted and acted on at the next step boundary."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

from distsgd.errors import Stopped

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
def keeping_sigterm() -> Iterator[None]:
    """Put the handler of SIGTERM back that Ray replaces, early while it connects, by one that exits with 15."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as ending:
        if ending.code == signal.SIGTERM:
            raise _stopped() from None
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _stopped() -> Stopped:
    text = "stopped by SIGTERM, but not within training; what was trained is on disk"
    return Stopped(text, signum=signal.SIGTERM)


@contextlib.contextmanager
def sigterm_raises() -> Iterator[None]:
    """Raise Stopped at SIGTERM, so that what was begun is ended, as KeyboardInterrupt does at Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_: int, __: FrameType | None) -> None:
        raise _stopped()

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


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
