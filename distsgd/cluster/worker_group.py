"""The workers of a run on Ray: started, connected, replaced when they are lost."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import ray

from distsgd.cluster.actors import START_S, Location
from distsgd.cluster.connections import Connections
from distsgd.cluster.gradient_actors import WorkerActor
from distsgd.cluster.launching import Launcher
from distsgd.cluster.rows import SharedRows
from distsgd.cluster.rpc import TICK_S, Tick, await_reply, end, has_arrived
from distsgd.cluster.worker_spec import WorkerSpec
from distsgd.cluster.worker_state import Alive, Connected, ManagedWorker, Pending, Ready, Retired, Starting, Waiting
from distsgd.cluster.workers import Workers
from distsgd.config import Config
from distsgd.errors import DistsgdError, ResourceError, WorkerLostError, counted


class WorkerGroup:
    """Workers, and an aggregator on each node that has workers and is not the server's."""

    def __init__(
        self,
        config: Config,
        *,
        workers: int,
        spec: WorkerSpec,
        rows: SharedRows,
        launcher: Launcher,
    ) -> None:
        self._config, self._launcher = config, launcher
        self._spec, self._rows = spec, rows
        self.start_timeout_s = max(config.run.reply_timeout_s, START_S)
        """Seconds within which a process has to be placed, and again to be initialized."""
        self.workers = Workers(config, workers)
        self.connections = Connections(
            config, spec.net, self.workers, launcher=launcher, start_timeout_s=self.start_timeout_s
        )
        """How they are connected to the server."""
        self.numerics: dict[str, str] = {}

    def start(self) -> None:
        """Ask Ray for the processes of all workers, and have them initialized."""
        for worker in self.workers.all:
            self._advance(worker)

    def await_ready(self, stage: Callable[[str], None]) -> None:
        """Wait until all workers are ready; call `stage` with how many are.

        Raise ResourceError if there is no room for one, and whatever error one has in its initialization.
        """
        while replies := [reply for worker in self.workers.all if (reply := _awaited(worker)) is not None]:
            count = len(self.workers.all)
            stage(f"starting {count} worker{'s' * (count != 1)}: {count - len(replies)} ready")
            ray.wait(replies, timeout=TICK_S)
            for worker in self.workers.all:
                self._advance(worker)
                if isinstance(worker.state, Pending) and worker.state.deadline < time.monotonic():
                    raise ResourceError(
                        f"{worker.name} has not answered for {self.start_timeout_s:g} s: the cluster's CPUs or GPUs "
                        "may be taken by other jobs, or by other runs of this process: start them one after the other"
                    )

    def _advance(self, worker: ManagedWorker) -> None:
        """Move a worker that is on its way to its next state, if its reply has arrived.

        Raise DistsgdError if it died, failed or took too long.
        """
        state, now = worker.state, time.monotonic()
        if isinstance(state, Waiting) and state.due <= now:
            self._start_process(worker)
        elif isinstance(state, Pending) and has_arrived(state.placed):
            location: Location = await_reply(state.placed, worker.name, self.start_timeout_s)
            worker.become(
                Starting(state.actor, location, state.initialized, now + self.start_timeout_s), f"pid {location.pid}"
            )
        elif isinstance(state, Starting) and has_arrived(state.initialized):
            self._compare(worker, await_reply(state.initialized, worker.name, self.start_timeout_s))
            worker.become(Ready(state.actor, state.location), "initialized")
        elif isinstance(state, Starting) and state.deadline < now:
            raise WorkerLostError(f"{worker.name} was not ready {self.start_timeout_s:g} s after its process started")

    def _start_process(self, worker: ManagedWorker) -> None:
        """Ask Ray for a process, and have it initialized when there is one."""
        run = self._config.run
        gpus = run.gpus_per_worker if self._spec.device == "cuda" else 0
        options = {"num_cpus": run.blas_threads, "num_gpus": gpus}
        restart = worker.restarts
        actor = self._launcher.start(WorkerActor, worker.name, options=options, number=worker.number, restart=restart)
        placed = actor.location.remote()
        initialized = actor.initialize.remote(self._spec, self._rows.train, self._rows.val)
        deadline = time.monotonic() + self.start_timeout_s
        worker.become(Pending(actor, placed, initialized, deadline), f"restart {worker.restarts}")

    def _compare(self, worker: ManagedWorker, fingerprint: dict[str, str]) -> None:
        """Compare a worker's arithmetic with the first one's; a difference is something the user should know."""
        self.numerics = self.numerics or fingerprint
        if fingerprint != self.numerics and self._spec.net.arithmetic == "fast":
            self.workers.notices.append(
                f"{worker.name} computes with {fingerprint}, and others with {self.numerics}: the last bits depend on "
                "which of them computes what; run.blas_kernel holds all to one kernel"
            )

    def connect_all(self, server: Any, location: Location) -> None:
        """Connect every worker that can compute to a new server; see Connections.connect_all."""
        self.connections.connect_all(server, location)

    def replace_lost(self, tick: Tick) -> None:
        """Detect lost workers, start replacements, connect those that are ready.

        Raise ServerLostError if the server is gone, WorkerLostError if too few workers are left.
        """
        self.connections.take_lost_peers(tick)
        for worker in self.workers.all:
            try:
                self._advance(worker)
            except DistsgdError as error:
                self.workers.lose(worker, str(error))
        self.connections.connect_ready(tick)
        self._check_strength()
        self._restart_overdue()

    def _restart_overdue(self) -> None:
        """Ask again for processes that were not there in time.

        Most wait for room in the cluster, but one that hangs before its actor exists looks the same.
        """
        now = time.monotonic()
        for worker in self.workers.all:
            if isinstance(worker.state, Pending) and worker.state.deadline < now:
                end(worker.state.actor, None)
                worker.become(Waiting(now), f"not placed within {self.start_timeout_s:g} s")

    def drop_dead_nodes(self) -> None:
        """Mark the workers of dead nodes as lost."""
        self.connections.drop_dead_nodes()

    def _check_strength(self) -> None:
        """Raise WorkerLostError if fewer than `run.min_workers` workers are left or starting."""
        now, workers, least = time.monotonic(), self.workers.all, self._config.run.min_workers
        out = [worker for worker in workers if isinstance(worker.state, Retired)]
        without_room = [w for w in workers if isinstance(w.state, Pending) and w.state.deadline < now]
        left = len(workers) - len(out) - len(without_room)
        if left >= least:
            return
        if without_room:
            why = f"there was no room in the cluster for {without_room[0].name} within {self.start_timeout_s:g} s"
        else:
            why = f"none is replaced more often than run.max_restarts, {self._config.run.max_restarts}"
        raise WorkerLostError(
            f"{left} of {counted(len(workers), 'worker')} {'is' if left == 1 else 'are'} left, which is fewer than "
            f"run.min_workers, {least}, and {why}; what was trained is in the newest checkpoint: find out what ends "
            "the workers, then continue with --resume"
        )

    def resize(self, count: int) -> None:
        """Change the number of workers: add some, or remove some that are not computing."""
        while len(self.workers.all) < count:
            self.workers.add()
        idle = [worker for worker in self.workers.all if not isinstance(worker.state, Ready | Connected)]
        for worker in idle[: max(0, len(self.workers.all) - count)]:
            self.workers.remove(worker, "the cluster has shrunk")

    def close(self) -> None:
        """End all processes."""
        for worker in self.workers.all:
            if isinstance(worker.state, Alive):
                end(worker.state.actor, None)
        self.connections.close()


def _awaited(worker: ManagedWorker) -> Any:
    """Return the reply that a starting worker waits for, or None."""
    match worker.state:
        case Pending(placed=reply) | Starting(initialized=reply):
            return reply
    return None
