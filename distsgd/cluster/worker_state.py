"""The states of a worker and the transitions between them.

A run has a fixed number of workers. Each has a number that its successive processes share, and is always in one of
the states below. A state holds only the data that is valid in it: a worker that waits for its restart has no actor that
could be called by mistake.

    Waiting ──▶ Pending ──▶ Starting ──▶ Ready ◀──▶ Connected
       ▲           │            │          │            │
       └───────────┴────────────┴──────────┴────────────┘     lost: Waiting again, or Retired
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from distsgd.cluster.actors import Location
from distsgd.comm.transport import worker_name

HISTORY = 100
"""Number of transitions in the history of a worker."""


@dataclass(frozen=True)
class State:
    """What is known of a worker."""


@dataclass(frozen=True)
class Waiting(State):
    """It has no process; the next one is due at `due` on the monotonic clock."""

    due: float


@dataclass(frozen=True)
class Retired(State):
    """It has no process and is not restarted."""


@dataclass(frozen=True)
class Alive(State):
    """It has an actor, as far as is known."""

    actor: Any


@dataclass(frozen=True)
class Pending(Alive):
    """Ray has been asked for a process and has not placed it yet; the cluster may be full."""

    placed: Any
    """The reply with its location."""

    initialized: Any
    """The reply with the fingerprint of its arithmetic."""

    deadline: float
    """When it no longer counts as starting, on the monotonic clock."""


@dataclass(frozen=True)
class Located(Alive):
    """It has a process whose location is known."""

    location: Location


@dataclass(frozen=True)
class Starting(Located):
    """Its process is there and is being initialized, which has to be done by `deadline` on the monotonic clock."""

    initialized: Any
    deadline: float


@dataclass(frozen=True)
class Ready(Located):
    """It is initialized and can compute, but neither the server nor an aggregator knows of it."""


@dataclass(frozen=True)
class Connected(Located):
    """It computes shards for the server, or for an aggregator on its node."""

    aggregator: str | None
    """The name of the aggregator."""

    by_tcp: bool = False
    """Whether it is connected to a server on another node, by TCP."""


TRANSITIONS: dict[type[State], frozenset[type[State]]] = {
    Waiting: frozenset({Pending, Retired}),
    Pending: frozenset({Starting, Waiting, Retired}),
    Starting: frozenset({Ready, Waiting, Retired}),
    Ready: frozenset({Connected, Waiting, Retired}),
    Connected: frozenset({Ready, Waiting, Retired}),  # Ready: the server or the aggregator is gone, the worker is not
    Retired: frozenset(),
}


class InvalidTransition(Exception):  # noqa: N818 - named like dask's
    """A transition that is not in the table: a bug in this package."""


class ManagedWorker:
    """A worker of a run: its number, its state and its history."""

    def __init__(self, number: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.number, self.name, self.restarts = number, worker_name(number), 0
        self._clock = clock
        self._state: State = Waiting(clock())
        self._history: deque[tuple[float, str]] = deque([(clock(), "Waiting")], maxlen=HISTORY)

    @property
    def state(self) -> State:
        """The state that it is in."""
        return self._state

    def become(self, state: State, reason: str) -> None:
        """Go to another state; `reason` is for the history. Raise InvalidTransition if it does not follow this one."""
        before, after = type(self._state), type(state)
        if after not in TRANSITIONS[before]:
            raise InvalidTransition(
                f"{self.name} cannot go from {before.__name__} to {after.__name__} ({reason}); "
                f"its history: {self.history()}"
            )
        self._state = state
        self._history.append((self._clock(), f"{after.__name__} ({reason})"))

    def lose(self, reason: str, *, max_restarts: int, back_off_s: float) -> None:
        """Mark its process as lost: wait for a restart with exponential back-off, or retire after `max_restarts`."""
        if self.restarts < max_restarts:
            self.become(Waiting(self._clock() + back_off_s * 2**self.restarts), reason)
            self.restarts += 1
        else:
            self.become(Retired(), reason)

    def history(self) -> str:
        """Return its newest transitions, oldest first, with the seconds since each."""
        now = self._clock()
        return ", ".join(f"{now - at:.3f} s ago {what}" for at, what in self._history)
