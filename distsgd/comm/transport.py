"""The transport interface: a `Peer` is a server's connection to a process that computes gradients.

There are three transports: shared memory on the server's node (shared_memory.py), TCP to other nodes (tcp_peer.py), and
Ray calls where neither is possible (ray_calls.py).
A `Dispatcher` (dispatcher.py) manages all peers of a server and collects the gradients of a step from them, even if
some are lost during it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from distsgd.core.reduction import PartialSum


def worker_name(number: int) -> str:
    """Return the name of a worker in messages."""
    return f"worker {number}"


class Answer(NamedTuple):
    """A peer's result for a contiguous range of shards."""

    step: int
    shards: range
    partials: Sequence[PartialSum]
    """One per maximal subtree within `shards`; the arrays are valid until the peer gets its next task."""


class PeerLostError(Exception):
    """A peer died, closed the connection or violated the protocol; other peers have to compute its shards."""


class PeerTimeoutError(Exception):
    """A peer's answer took too long to arrive; the peer is lost and its process is killed."""


class PeerFailedError(Exception):
    """A peer's computation raised an error; the same computation would fail on another peer."""


class Peer(Protocol):
    """Computes contiguous ranges of shards, one at a time, for one dispatcher. Only the dispatcher's thread calls it.

    The dispatcher calls `start`, waits until the descriptor `fileno()` is readable, and calls `receive`. A transport
    therefore needs a descriptor that becomes readable when an answer arrives, and when the other side is gone. A socket
    does both; an `eventfd` that another thread writes to also works.

    A complete transport, for a worker in the server's process that computes synchronously:

        import os

        from distsgd.comm.transport import Answer, PeerFailedError


        class InProcessPeer:
            def __init__(self, worker, buffers):
                self.name, self.host, self.pid, self.weight = "worker 0", "localhost", os.getpid(), 1
                self.path = None
                self._worker, self._buffers = worker, buffers
                self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

            def fileno(self):
                return self._event

            def start(self, step, shards, buffer, *, update_here):
                try:
                    partials = self._worker.compute(step, self._buffers[buffer], shards)
                    self._answer = Answer(step, shards, partials)
                except Exception as error:
                    self._answer = PeerFailedError(str(error))
                os.eventfd_write(self._event, 1)

            def receive(self):
                os.eventfd_read(self._event)  # BlockingIOError if nothing has arrived
                if isinstance(self._answer, PeerFailedError):
                    raise self._answer
                return self._answer

            def close(self, *, kill=False):
                os.close(self._event)

    To add it from the next step on, call `dispatcher.members.join(InProcessPeer(worker, dispatcher.buffers))`.
    """

    name: str
    """The name of the worker or aggregator in messages."""

    host: str
    pid: int
    """Its process on that host; 0 if it is not visible from here, as in another PID namespace."""

    weight: int
    """The number of workers that it represents."""

    path: str | None
    """How it is reached on another node, for messages: the addresses of both ends. None if it shares the parameters'
    memory; others get them by `start`, which takes so long that they are started last."""

    def fileno(self) -> int:
        """Return a descriptor that is readable when there is something to receive."""
        ...

    def start(self, step: int, shards: range, buffer: int, *, update_here: bool) -> None:
        """Start computing the gradients of `shards` with the parameters in one of the two buffers.

        `update_here` says whether all that follows the step's gradients happens on this node, which is soon over.

        Raise PeerLostError if the peer is gone, and PeerTimeoutError if it does not take the parameters.
        """
        ...

    def receive(self) -> Answer:
        """Return the answer that has arrived.

        Raise PeerLostError, PeerTimeoutError or PeerFailedError if the peer failed, and BlockingIOError if no answer
        has arrived yet.
        """
        ...

    def close(self, *, kill: bool = False) -> None:
        """Close the connection; with `kill`, also kill the process, which no longer answers."""
        ...
