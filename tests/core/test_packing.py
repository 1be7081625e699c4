"""BLAS's buffers are touched once in a process, by as many threads as will multiply at the same time."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from distsgd.core import packing


@pytest.fixture(autouse=True)
def _nothing_is_touched(monkeypatch):
    monkeypatch.setattr(packing, "_touched", 0)


def threads_of(monkeypatch, others: int, call) -> list[str]:
    """Return the names of the threads that multiply during `call`, which have all met before one of them does."""
    names: list[str] = []
    multiply = packing.np.dot

    def noted(a, b, out):
        names.append(threading.current_thread().name)
        return multiply(a, b, out=out)

    monkeypatch.setattr(packing.np, "dot", noted)
    with ThreadPoolExecutor(max(1, others), "others") as pool:
        call(pool)
    return names


def test_each_thread_multiplies_once_and_only_in_the_first_call(monkeypatch):
    def call(pool):
        packing.touch_buffers(pool, 2)
        packing.touch_buffers(pool, 2)
        packing.touch_buffers()

    names = threads_of(monkeypatch, 2, call)
    assert len(names) == len(set(names)) == 3
    assert sum(name.startswith("others") for name in names) == 2


def test_more_threads_than_before_touch_theirs(monkeypatch):
    def call(pool):
        packing.touch_buffers()
        packing.touch_buffers(pool, 1)

    assert len(threads_of(monkeypatch, 1, call)) == 3


def test_threads_that_do_not_meet_multiply_all_the_same(monkeypatch):
    monkeypatch.setattr(packing, "MEETING_S", 0.01)
    barrier = threading.Barrier
    monkeypatch.setattr(packing.threading, "Barrier", lambda parties: barrier(parties + 1))
    assert len(threads_of(monkeypatch, 1, lambda pool: packing.touch_buffers(pool, 1))) == 2
