"""How the parameter server and the workers talk.

To the server, whoever computes gradients is a `Peer`: a worker on its own node, over shared memory (shared_memory.py),
or a worker or a whole node's aggregator, over Ray (ray_calls.py). A `Dispatcher` (dispatcher.py) holds all peers of a
server and collects a step's gradients from them, whichever of them die meanwhile.
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
    """A peer died, or has hung up, or speaks nonsense; its shards are for others to compute."""


class PeerFailedError(Exception):
    """A peer's computation raised an error, which another's would as well."""


class Peer(Protocol):
    """Computes runs of shards, one at a time."""

    name: str
    """Which worker or aggregator it is, as messages name it."""

    host: str
    pid: int
    """Its process on that host; 0 if that cannot be seen from here."""

    weight: int
    """Workers that it stands for."""

    def fileno(self) -> int:
        """Return a descriptor that is readable when there is something to receive."""
        ...

    def start(self, step: int, shards: range, buffer: int) -> None:
        """Have the gradients of `shards` computed with the parameters in one of the two buffers.

        Raises PeerLostError if the peer is gone.
        """
        ...

    def receive(self) -> Answer:
        """Return the answer that has come. Raises PeerLostError or PeerFailedError in its location.

        BlockingIOError if nothing has come.
        """
        ...

    def close(self, *, kill: bool = False) -> None:
        """Hang up; with `kill`, end a process that does not answer any more."""
        ...
