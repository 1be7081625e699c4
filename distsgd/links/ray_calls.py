"""Peers that are reached by Ray calls: relays on other nodes, and workers wherever shared memory is not to be had."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayActorError, RayTaskError

from distsgd.errors import WorkerLostError
from distsgd.links import Answer, PeerFailedError, PeerLostError
from distsgd.reduction import Partial


class Courier:
    """Puts a step's parameters into Ray's object store once, for all peers that are sent them."""

    def __init__(self, buffers: np.ndarray) -> None:
        self._buffers = buffers
        self._step = -1
        self._parcel: Any = None

    def parcel(self, step: int, buffer: int) -> Any:
        """Return a reference to a copy of the parameters that step `step` starts from."""
        if step != self._step:
            self._step, self._parcel = step, ray.put(self._buffers[buffer])
        return self._parcel


class RayPeer:
    """An actor with the method `compute` of `worker.Worker`."""

    def __init__(self, actor: Any, name: str, host: str, weight: int, courier: Courier) -> None:
        self.name, self.host, self.weight = name, host, weight
        self._actor, self._courier = actor, courier
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._reply: Future[Sequence[Partial]] | None = None
        self._asked = (-1, range(0))

    def fileno(self) -> int:
        """See `links.Peer`."""
        return self._event

    def start(self, step: int, shards: range, buffer: int) -> None:
        """See `links.Peer`."""
        self._asked = (step, shards)
        reference = self._actor.compute.remote(step, self._courier.parcel(step, buffer), shards)
        reply: Future[Sequence[Partial]] = reference.future()
        self._reply = reply
        reply.add_done_callback(lambda _: self._ring())

    def _ring(self) -> None:
        with suppress(OSError):  # the peer was given up meanwhile
            os.eventfd_write(self._event, 1)

    def receive(self) -> Answer:
        """See `links.Peer`."""
        os.eventfd_read(self._event)  # BlockingIOError if nothing has come
        if self._reply is None:
            raise PeerLostError("it answers unasked")
        try:
            return Answer(*self._asked, self._reply.result())
        except RayTaskError as error:
            if isinstance(error.cause, WorkerLostError):  # a relay without workers
                raise PeerLostError(_first_line(error.cause)) from None
            raise PeerFailedError(_first_line(error.cause)) from None
        except RayActorError as error:
            raise PeerLostError(_first_line(error)) from None

    def close(self, *, kill: bool = False) -> None:
        """See `links.Peer`."""
        if kill:
            ray.kill(self._actor)
        event, self._event = self._event, -1
        if event >= 0:
            os.close(event)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
