"""What a transport is: a way to reach whoever computes gradients, which a server knows as a `Peer`.

There are two: shared memory on the server's own node (shared_memory.py), and Ray calls anywhere else (ray_calls.py). A
`Dispatcher` (dispatcher.py) holds all peers of a server, and gets a step's gradients from them whichever of them are
lost meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from distsgd.core.reduction import PartialSum


def worker_name(number: int) -> str:
    """Return what messages call a worker."""
    return f"worker {number}"


class Answer(NamedTuple):
    """What a peer computed of one run of shards."""

    step: int
    shards: range
    partials: Sequence[PartialSum]
    """One for each subtree that lies whole within `shards`; the arrays are valid until the peer is asked again."""


class PeerLostError(Exception):
    """A peer died, or has hung up, or does not keep to the protocol; its shards are for others to compute."""


class PeerTimeoutError(Exception):
    """A peer's answer was on its way for too long; it is lost, and its process is ended."""


class PeerFailedError(Exception):
    """A peer's computation raised an error, which another's would as well."""


class Peer(Protocol):
    """Computes runs of shards, one at a time, for one dispatcher, whose thread alone calls it.

    The dispatcher calls `start`, waits until the descriptor `fileno()` is readable, and calls `receive`. So a transport
    needs a descriptor that becomes readable when an answer has arrived, and when the other side is gone: a socket does
    both, and an `eventfd` that some other thread writes to will do.

    The whole of a transport, to a worker in the server's own process that computes as soon as it is asked:

        import os

        from distsgd.comm.transport import Answer, PeerFailedError


        class InProcessPeer:
            def __init__(self, worker, buffers):
                self.name, self.host, self.pid, self.weight = "worker 0", "localhost", os.getpid(), 1
                self._worker, self._buffers = worker, buffers
                self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

            def fileno(self):
                return self._event

            def start(self, step, shards, buffer):
                try:
                    partials = self._worker.compute(step, self._buffers[buffer], shards)
                    self._answer = Answer(step, shards, partials)
                except Exception as error:
                    self._answer = PeerFailedError(str(error))
                os.eventfd_write(self._event, 1)

            def receive(self):
                os.eventfd_read(self._event)  # BlockingIOError if nothing has come
                if isinstance(self._answer, PeerFailedError):
                    raise self._answer
                return self._answer

            def close(self, *, kill=False):
                os.close(self._event)

    It takes part from the next step on after `dispatcher.members.join(InProcessPeer(worker, dispatcher.buffers))`.
    """

    name: str
    """Which worker or aggregator it is, as messages name it."""

    host: str
    pid: int
    """Its process on that host; 0 if that cannot be seen from here."""

    weight: int
    """The number of workers that it stands for."""

    def fileno(self) -> int:
        """Return a descriptor that is readable when there is something to receive."""
        ...

    def start(self, step: int, shards: range, buffer: int) -> None:
        """Have the gradients of `shards` computed with the parameters in one of the two buffers.

        Raises PeerLostError if the peer is gone.
        """
        ...

    def receive(self) -> Answer:
        """Return the answer that has arrived.

        Raises PeerLostError, PeerTimeoutError or PeerFailedError in its place, BlockingIOError if there is none yet.
        """
        ...

    def close(self, *, kill: bool = False) -> None:
        """Hang up; with `kill`, end a process that does not answer any more."""
        ...
