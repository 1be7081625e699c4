"""Peers that are reached through Ray calls: aggregators on other nodes, and workers where shared memory is unavailable.

Ray sends values over 100 KB through its object store, which takes 10 ms for 250 KB from one node to another and back.
Vectors of up to a few megabytes are therefore split into chunks that are small enough to be sent inline with the call:
measured between two raylets on one machine, 250 KB took 1.9 ms instead of 9.6 ms, and 1 MB 5.0 ms instead of 11.8 ms.
The object store is faster for larger vectors (12.6 MB: 45 ms), and Ray's limit for a call is 10 MB.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from distsgd.comm.transport import Answer, PeerFailedError, PeerLostError, PeerTimeoutError
from distsgd.core.reduction import PartialSum, Summation
from distsgd.errors import WorkerLostError

CHUNK_BYTES = 96_000
"""Bytes per chunk, below the 100 KB up to which Ray sends a value inline."""

MAX_CHUNKS = 40
"""Maximum number of chunks per vector; a longer vector goes through the object store as a whole."""


def _is_long(vector: np.ndarray) -> bool:
    """Return whether a vector (P,) goes through the object store."""
    return vector.nbytes > CHUNK_BYTES * MAX_CHUNKS


def cut(vector: np.ndarray) -> list[np.ndarray]:
    """Split a vector (P,) into the chunks that it is sent in."""
    if _is_long(vector):
        return [vector]
    count = CHUNK_BYTES // vector.itemsize
    return [vector[start : start + count] for start in range(0, len(vector), count)]


def join(chunks: Sequence[np.ndarray]) -> np.ndarray:
    """Return the vector that `cut` split into `chunks`."""
    return chunks[0] if len(chunks) == 1 else np.concatenate(chunks)


def pack(partials: Sequence[PartialSum]) -> list[Any]:
    """Return partial sums as values to send: everything but the gradients first, then the gradients' chunks."""
    heads = [partial._replace(gradient=None) for partial in partials]
    return [heads, *(chunk for partial in partials for chunk in cut(partial.gradient))]


def unpack(values: Sequence[Any]) -> list[PartialSum]:
    """Return the partial sums from the values that `pack` returned."""
    heads, chunks = values[0], values[1:]
    count = len(chunks) // len(heads)
    return [head._replace(gradient=join(chunks[i * count : (i + 1) * count])) for i, head in enumerate(heads)]


class ParameterChunks:
    """The parameters of the current step, split into chunks once for all peers."""

    def __init__(self, buffers: np.ndarray) -> None:
        self._buffers = buffers
        self._step = -1
        self._chunks: list[Any] = []

    @property
    def parameters(self) -> int:
        """The number of parameters, P."""
        return int(self._buffers.shape[1])

    def count(self, dtype: np.dtype[Any]) -> int:
        """Return the number of chunks of a vector (P,) of another type."""
        return len(cut(np.empty(self._buffers.shape[1], dtype)))

    def for_step(self, step: int, buffer: int) -> list[Any]:
        """Return the parameters at the start of step `step`, as arguments of a call."""
        if step != self._step:
            flat = self._buffers[buffer]
            self._step, self._chunks = step, [ray.put(flat)] if _is_long(flat) else cut(flat)
        return self._chunks


class RayPeer:
    """An actor with the method `compute_chunks` of cluster.gradient_actors.GradientActor."""

    def __init__(
        self,
        actor: Any,
        name: str,
        host: str,
        pid: int,
        *,
        weight: int,
        parameter_chunks: ParameterChunks,
        summation: Summation,
        timeout_s: float,
    ) -> None:
        """Wait up to `timeout_s` for an answer that has been computed to arrive."""
        self.name, self.host, self.pid, self.weight = name, host, pid, weight
        self.path: str | None = "Ray calls"
        self._actor, self._parameter_chunks, self._summation = actor, parameter_chunks, summation
        self._chunks_per_sum = parameter_chunks.count(summation.dtype)
        self._timeout_s = timeout_s
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._open = threading.Lock()  # held while the descriptor must not be closed and reused
        self._replies: list[Any] = []
        self._asked = (-1, range(0))

    def fileno(self) -> int:
        """See `transport.Peer`."""
        return self._event

    def start(self, step: int, shards: range, buffer: int, *, update_here: bool) -> None:  # noqa: ARG002 - it is not
        """See `transport.Peer`."""
        self._asked = (step, shards)
        count = 1 + len(self._summation.nodes(shards)) * self._chunks_per_sum
        method = self._actor.compute_chunks.options(num_returns=count)
        self._replies = method.remote(step, shards, *self._parameter_chunks.for_step(step, buffer))
        first: Future[Any] = self._replies[0].future()  # all replies arrive in one message
        first.add_done_callback(lambda _: self._notify())

    def _notify(self) -> None:
        """Make the descriptor readable, in one of Ray's threads, unless the peer has been closed."""
        with self._open:
            if self._event >= 0:
                os.eventfd_write(self._event, 1)

    def receive(self) -> Answer:
        """See `transport.Peer`."""
        os.eventfd_read(self._event)  # BlockingIOError if nothing has arrived
        try:
            partials = unpack(ray.get(self._replies, timeout=self._timeout_s))
            self._check(partials)
            return Answer(*self._asked, partials)
        except GetTimeoutError:  # a large answer is still in the object store of its node, which does not send it
            raise PeerTimeoutError(
                f"has computed its answer, which did not arrive within {self._timeout_s:g} s"
            ) from None
        except RayTaskError as error:
            if isinstance(error.cause, WorkerLostError):  # an aggregator without workers
                raise PeerLostError(_first_line(error.cause)) from None
            raise PeerFailedError(_first_line(error.cause)) from None
        except RayError as error:  # the actor died, or the node that held a large answer did
            raise PeerLostError(_first_line(error)) from None

    def _check(self, partials: Sequence[PartialSum]) -> None:
        expected = (self._summation.dtype, (self._parameter_chunks.parameters,))
        for gradient in (partial.gradient for partial in partials):
            if (gradient.dtype, gradient.shape) != expected:
                raise PeerLostError(
                    f"it sends a gradient of {gradient.shape[0]} {gradient.dtype}, and not of {expected[1][0]} "
                    f"{expected[0]}"
                )

    def close(self, *, kill: bool = False) -> None:
        """See `transport.Peer`."""
        if kill:
            ray.kill(self._actor)
        with self._open:
            event, self._event = self._event, -1
            if event >= 0:
                os.close(event)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
