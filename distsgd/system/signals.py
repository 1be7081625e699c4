"""SIGINT and SIGTERM: within training a request that is acted on at the next step boundary, outside of it an error."""

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


class StopRequest:
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
def _restored(*signums: int) -> Iterator[bool]:
    """Put the handlers of signals back afterwards; yield whether others may be set, which only the main thread may."""
    if threading.current_thread() is not threading.main_thread():
        yield False
        return
    before = {signum: signal.getsignal(signum) for signum in signums}
    try:
        yield True
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def stopped_outside_training(name: str, signum: int) -> Stopped:
    """Return the error for a signal, as the user knows it by name, that comes before training or after it."""
    return Stopped(f"stopped by {name}, but not within training; what was trained is on disk", signum=signum)


@contextlib.contextmanager
def keeping_sigterm() -> Iterator[None]:
    """Put the handler of SIGTERM back that Ray replaces, early while it connects, by one that exits with 15."""
    with _restored(signal.SIGTERM):
        try:
            yield
        except SystemExit as ending:
            if ending.code == signal.SIGTERM:
                raise stopped_outside_training("SIGTERM", signal.SIGTERM) from None
            raise


@contextlib.contextmanager
def sigterm_raises() -> Iterator[None]:
    """Raise Stopped at SIGTERM, so that what was begun is ended, as KeyboardInterrupt does at Ctrl-C."""

    def stop(signum: int, _: FrameType | None) -> None:
        raise stopped_outside_training("SIGTERM", signum)

    with _restored(signal.SIGTERM) as may_set:
        if may_set:
            signal.signal(signal.SIGTERM, stop)
        yield


@contextlib.contextmanager
def noted_stop_signals() -> Iterator[StopRequest]:
    """Note stop signals while the context lasts; a second one acts as if there were no context.

    Outside the main thread, where Python allows no handlers, nothing is ever noted.
    """
    request = StopRequest()

    def note(signum: int, _: FrameType | None) -> None:
        request.note(signum)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    with _restored(*SIGNALS) as may_set:
        if may_set:
            for signum in SIGNALS:
                signal.signal(signum, note)
        yield request
