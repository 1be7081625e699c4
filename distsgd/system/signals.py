"""Signals to stop: within training a request that is acted on at the next step boundary, outside of it an error.

SIGINT is Ctrl-C, SIGTERM what schedulers send, and SIGHUP that the terminal was closed. Who starts a program with
`nohup` has SIGHUP ignored, and it stays ignored.
"""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from types import FrameType

from distsgd.errors import Stopped

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopRequest:
    """The signal, if one came, that asks training to stop."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self._noted = math.inf

    def note(self, signum: int) -> None:
        """Record a signal."""
        self.signum, self._noted = signum, time.monotonic()

    def age_s(self) -> float:
        """Return the seconds since the signal came; minus infinity if none has come."""
        return time.monotonic() - self._noted


def _installed() -> list[int]:
    """Return the stop signals that may be handled: none outside the main thread, no SIGHUP below `nohup`."""
    if threading.current_thread() is not threading.main_thread():
        return []
    return [s for s in SIGNALS if s != signal.SIGHUP or signal.getsignal(s) is not signal.SIG_IGN]


@contextlib.contextmanager
def _restored(signums: Iterable[int]) -> Iterator[None]:
    """Put the handlers of signals back afterwards."""
    before = {signum: signal.getsignal(signum) for signum in signums}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def stopped_outside_training(name: str, signum: int) -> Stopped:
    """Return the error for a signal, as the user knows it by name, that comes before training or after it."""
    return Stopped(f"stopped by {name} outside training; whatever was trained is on disk", signum=signum)


@contextlib.contextmanager
def signals_kept_from_ray() -> Iterator[None]:
    """Put the handler of SIGTERM back that Ray replaces, early while it connects, by one that exits with 15.

    SIGHUP comes only afterwards: the processes that Ray starts meanwhile inherit that it is blocked. A terminal that is
    closed sends it to them, too, and would end them before this process has written its checkpoint.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
    with _restored([s for s in _installed() if s == signal.SIGTERM]):
        try:
            yield
        except SystemExit as ending:
            if ending.code == signal.SIGTERM:
                raise stopped_outside_training("SIGTERM", signal.SIGTERM) from None
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def stop_signals_raise() -> Iterator[None]:
    """Raise Stopped at SIGTERM and SIGHUP, so that what was begun is ended, as KeyboardInterrupt does at Ctrl-C."""

    def stop(signum: int, _: FrameType | None) -> None:
        raise stopped_outside_training(signal.Signals(signum).name, signum)

    signums = [signum for signum in _installed() if signum != signal.SIGINT]
    with _restored(signums):
        for signum in signums:
            signal.signal(signum, stop)
        yield


@contextlib.contextmanager
def noted_stop_signals(request: StopRequest) -> Iterator[None]:
    """Record stop signals in `request` while the context lasts; a second SIGINT or SIGTERM acts as without it.

    A second SIGHUP does not: of a closed terminal, both the kernel and the shell tell. Outside the main thread, where
    Python allows no handlers, nothing is ever recorded.
    """
    signums = _installed()

    def note(signum: int, _: FrameType | None) -> None:
        request.note(signum)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if signal.SIGHUP in signums:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    with _restored(signums):
        for signum in signums:
            signal.signal(signum, note)
        yield
