"""Signals to stop: during training, a request that takes effect at the next step boundary; otherwise an error.

SIGINT is Ctrl-C, SIGTERM is what schedulers send, and SIGHUP means that the terminal was closed. If SIGHUP is ignored
because the program was started with `nohup`, it stays ignored.
"""

from __future__ import annotations

import contextlib
import contextvars
import math
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from types import FrameType

from distsgd.errors import Stopped

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

GRACE_S = 1.5
"""Seconds that a run waits for MLflow after a signal to stop: Ray Jobs kills three seconds after its signal."""


class StopRequest:
    """A request to stop training: the signal that was received, if any."""

    def __init__(self, grace_s: float = GRACE_S) -> None:
        self.signum: int | None = None
        self.grace_s = grace_s
        """Seconds that the run may wait for MLflow then."""
        self._noted = math.inf

    def note(self, signum: int) -> None:
        """Record a signal."""
        self.signum, self._noted = signum, time.monotonic()

    def age_s(self) -> float:
        """Return the seconds since the signal came; minus infinity if none has come."""
        return time.monotonic() - self._noted


_NOTED: contextvars.ContextVar[StopRequest | None] = contextvars.ContextVar("noted", default=None)


def stop_age_s() -> float:
    """Return the seconds since this thread's training was asked to stop; minus infinity if it was not."""
    request = _NOTED.get()
    return -math.inf if request is None else request.age_s()


def _installed() -> list[int]:
    """Return the stop signals that may be handled: none outside the main thread, no SIGHUP under `nohup`."""
    if threading.current_thread() is not threading.main_thread():
        return []
    return [s for s in SIGNALS if s != signal.SIGHUP or signal.getsignal(s) is not signal.SIG_IGN]


@contextlib.contextmanager
def _restored(signums: Iterable[int]) -> Iterator[None]:
    """Restore the signal handlers afterwards."""
    before = {signum: signal.getsignal(signum) for signum in signums}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def stopped_outside_training(name: str, signum: int) -> Stopped:
    """Return the error for a signal before or after training; `name` is what the user calls it."""
    return Stopped(f"stopped by {name} outside training; whatever was trained is on disk", signum=signum)


@contextlib.contextmanager
def signals_kept_from_ray() -> Iterator[None]:
    """Restore the SIGTERM handler afterwards, which Ray replaces by one that exits with 15 while it connects.

    SIGHUP is blocked meanwhile, and the processes that Ray starts inherit that: a terminal that is closed sends it to
    them, too, and would end them before this process has written its checkpoint.
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
    """Raise Stopped on SIGTERM and SIGHUP, so that cleanup happens, as it does for KeyboardInterrupt on Ctrl-C."""

    def stop(signum: int, _: FrameType | None) -> None:
        raise stopped_outside_training(signal.Signals(signum).name, signum)

    signums = [signum for signum in _installed() if signum != signal.SIGINT]
    with _restored(signums):
        for signum in signums:
            signal.signal(signum, stop)
        yield


@contextlib.contextmanager
def noted_stop_signals(request: StopRequest) -> Iterator[None]:
    """Record stop signals in `request` within the context; a second SIGINT or SIGTERM has its default effect.

    A second SIGHUP is ignored, since both the kernel and the shell send one when a terminal is closed. Outside the main
    thread, where Python allows no handlers, nothing is recorded.
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
        token = _NOTED.set(request)
        try:
            yield
        finally:
            _NOTED.reset(token)
