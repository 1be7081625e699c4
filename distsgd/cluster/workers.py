"""The workers of a run, in all states, and the handling of lost ones."""

from __future__ import annotations

from collections import Counter

from distsgd.cluster.actors import Location
from distsgd.cluster.rpc import end
from distsgd.cluster.worker_state import Alive, Connected, Located, ManagedWorker, Ready, Retired
from distsgd.config import Config

BACK_OFF_S = 0.5
"""Seconds before a lost worker is restarted for the first time; twice as long each further time."""


class Workers:
    """All workers of a run, and what the user should know about them."""

    def __init__(self, config: Config, count: int) -> None:
        self._config = config
        self.all = [ManagedWorker(number) for number in range(count)]
        self.notices: list[str] = []

    def add(self) -> None:
        """Add a worker, whose process is to be started at once."""
        self.all.append(ManagedWorker(max((worker.number for worker in self.all), default=-1) + 1))

    def remove(self, worker: ManagedWorker, reason: str) -> None:
        """Remove a worker that is not training, and kill its process if it has one."""
        if isinstance(worker.state, Alive):
            end(worker.state.actor, None)
        if not isinstance(worker.state, Retired):
            worker.become(Retired(), reason)
        self.all.remove(worker)

    def ready(self) -> list[tuple[ManagedWorker, Ready]]:
        """Return the workers that are to be connected."""
        return [(worker, worker.state) for worker in self.all if isinstance(worker.state, Ready)]

    def able(self) -> list[tuple[ManagedWorker, Ready | Connected]]:
        """Return the workers that can compute."""
        return [(worker, worker.state) for worker in self.all if isinstance(worker.state, Ready | Connected)]

    def connected(self) -> list[tuple[ManagedWorker, Connected]]:
        """Return the workers that compute for the server or an aggregator."""
        return [(worker, worker.state) for worker in self.all if isinstance(worker.state, Connected)]

    def located(self) -> list[tuple[ManagedWorker, Located]]:
        """Return the workers whose process has a known location."""
        return [(worker, worker.state) for worker in self.all if isinstance(worker.state, Located)]

    def busiest_node(self) -> tuple[str | None, int]:
        """Return the node that most workers are on, and how many; None and 1 if no worker can compute."""
        counts = Counter(state.location.node for _, state in self.able())
        return counts.most_common(1)[0] if counts else (None, 1)

    def node_count(self) -> int:
        """Return the number of nodes that have workers."""
        return len({state.location.node for _, state in self.located()})

    def lose(self, worker: ManagedWorker, problem: str, doing: str = "") -> None:
        """Mark a worker as lost; `problem` says what happened, and `doing`, such as ` in step 3`, when."""
        state, limit = worker.state, self._config.run.max_restarts
        location = state.location if isinstance(state, Located) else None
        worker.lose(problem, max_restarts=limit, back_off_s=BACK_OFF_S)
        if isinstance(state, Alive):
            end(state.actor, location)
        self.note_lost(worker.name, location, problem, doing)
        if isinstance(worker.state, Retired):
            self.notices.append(
                f"{worker.name} is not replaced any more (run.max_restarts is {limit}); the others go on without it"
            )

    def note_lost(self, name: str, location: Location | None, problem: str, doing: str = "") -> None:
        """Add a notice that a worker or an aggregator was lost."""
        where = f" on {location.host}" if location else ""
        self.notices.append(f"{name}{where} was lost{doing}: {problem.removeprefix(f'{name} ')}")

    def note(self, notice: str) -> None:
        """Add a notice."""
        self.notices.append(notice)

    def take_notices(self) -> list[str]:
        """Return the notices since the last call."""
        notices, self.notices = self.notices, []
        return notices
