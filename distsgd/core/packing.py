"""The memory that BLAS packs matrices into, touched once, so that small products need not wait for missing pages.

OpenBLAS copies parts of its operands into a buffer of its own, and its kernels prefetch from there, a little further
than they read. For products whose result has few columns, only the beginning of the buffer is ever written. What lies
behind it has no pages yet, and each prefetch walks the page tables in vain: on a virtual machine (AMD Zen), one thread
took 1.9 ms for (50 × 784)·(784 × 256), and 0.7 ms once another product had written there. The pages stay for the life
of the process. Results do not depend on any of this.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np

ROWS, INNER, COLUMNS = 256, 128, 1024
"""Shape of the product: more columns than a block that OpenBLAS packs at a time (320 to 768 are common), and so many
rows and inner values that what is written, ROWS · INNER · 4 bytes, reaches beyond what smaller products prefetch."""

MEETING_S = 1.0
"""Seconds in which the threads that multiply at the same time have to meet."""

_lock = threading.Lock()
_touched = 0
"""Threads at a time for which there are touched buffers in this process."""


def touch_buffers(pool: ThreadPoolExecutor | None = None, others: int = 0) -> None:
    """Have BLAS touch its buffers, for this thread and `others` of a pool that will multiply at the same time.

    Once per process it takes a few milliseconds, later nothing. BLAS has one buffer for each product that is being
    computed; with several threads in BLAS, each product touches its own buffers.
    """
    global _touched
    with _lock:
        if _touched > others:
            return
        meeting = threading.Barrier(others + 1)
        multiplying = [pool.submit(_multiply, meeting) for _ in range(others)] if pool is not None else []
        _multiply(meeting)
        for product in multiplying:
            product.result()
        _touched = others + 1


def _multiply(meeting: threading.Barrier) -> None:
    a, b = np.zeros((ROWS, INNER), np.float32), np.zeros((INNER, COLUMNS), np.float32)
    out = np.empty((ROWS, COLUMNS), np.float32)
    with suppress(threading.BrokenBarrierError):  # then the buffers of some threads are touched by their own products
        meeting.wait(MEETING_S)
    np.dot(a, b, out=out)
