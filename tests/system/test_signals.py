"""Signals to stop: recorded within training, raised outside of it, and left alone where they are ignored."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import pytest

from distsgd.errors import Stopped
from distsgd.system.signals import StopRequest, noted_stop_signals, signals_kept_from_ray, stop_signals_raise

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.mark.parametrize("signum", SIGNALS)
def test_a_signal_in_training_is_recorded_and_handlers_are_put_back(signum):
    before = [signal.getsignal(s) for s in SIGNALS]
    request = StopRequest()
    assert request.age_s() < 0
    with noted_stop_signals(request):
        signal.raise_signal(signum)
        assert request.signum == signum
        assert 0 <= request.age_s() < 60
    assert [signal.getsignal(s) for s in SIGNALS] == before


def test_a_second_ctrl_c_interrupts():
    with noted_stop_signals(StopRequest()):
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_second_hangup_does_nothing():
    """The kernel and the shell both tell of a closed terminal."""
    request = StopRequest()
    with noted_stop_signals(request):
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)
    assert request.signum == signal.SIGHUP


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_outside_training_is_an_error(signum, code):
    message = f"stopped by {signum.name} outside training"
    with stop_signals_raise(), pytest.raises(Stopped, match=message) as caught:
        signal.raise_signal(signum)
    assert caught.value.exit_code == code


def test_an_ignored_hangup_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        request = StopRequest()
        with stop_signals_raise(), noted_stop_signals(request):
            signal.raise_signal(signal.SIGHUP)
            assert request.signum is None
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_thread_sets_no_handlers():
    def work():
        with stop_signals_raise(), noted_stop_signals(request):
            found.append(signal.getsignal(signal.SIGTERM))

    request, found = StopRequest(), []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGTERM)]


@pytest.mark.timeout(60)
def test_a_hangup_does_not_end_what_ray_starts_and_reaches_this_process_afterwards():
    request = StopRequest()
    with noted_stop_signals(request):
        with signals_kept_from_ray():
            child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
            signal.raise_signal(signal.SIGHUP)
            assert request.signum is None
        assert request.signum == signal.SIGHUP
    child.send_signal(signal.SIGHUP)
    child.stdin.close()
    assert child.wait(50) == 0


def test_the_handler_that_ray_sets_is_replaced():
    before = signal.getsignal(signal.SIGTERM)

    def start_ray():
        with signals_kept_from_ray():
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(15))
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Stopped):
        start_ray()
    assert signal.getsignal(signal.SIGTERM) is before
