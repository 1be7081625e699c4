"""Predictions by tasks of a Ray cluster, in the order of the rows; a task whose process dies is run again by Ray."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import ray

from distsgd.cluster.rpc import await_reply
from distsgd.core.numerics import pinned_blas
from distsgd.core.predictor import Predictor

REPLY_S = 600.0
"""Seconds that the oldest part of the rows may take, waiting for a free CPU included."""


def predict_part(predictor: Predictor, X: np.ndarray, blas_threads: int) -> tuple[np.ndarray, np.ndarray]:
    """Return classes (n,) and probabilities (n, C) of raw features X (n, D), with so many BLAS threads."""
    with pinned_blas(blas_threads, None):
        return predictor.predict_both(X)


def in_order(
    predictor: Predictor, parts: Iterable[tuple[np.ndarray, Any]], *, workers: int
) -> Iterator[tuple[tuple[np.ndarray, np.ndarray], Any]]:
    """Yield what `predict_part` returns for each of the `parts` (X, rest), with its rest, in their order.

    At most `workers` tasks run at once, and as many parts wait, so memory does not grow with the rows.
    """
    shared, waiting = ray.put(predictor), deque[tuple[Any, Any]]()
    task = ray.remote(predict_part).options(num_cpus=1)
    for X, rest in parts:
        waiting.append((task.remote(shared, X, 1), rest))
        if len(waiting) >= 2 * workers:
            yield _first(waiting)
    while waiting:
        yield _first(waiting)


def _first(waiting: deque[tuple[Any, Any]]) -> tuple[tuple[np.ndarray, np.ndarray], Any]:
    reply, rest = waiting.popleft()
    return await_reply(reply, "a task that predicts", REPLY_S), rest
