"""The workers of a run on Ray, and the aggregators between them and the server: started, seated, watched, replaced."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from distsgd.cluster.actors import START_S, AggregatorActor, Location, WorkerActor
from distsgd.cluster.rpc import answer, ask_server, end, is_alive
from distsgd.comm.membership import LostPeer
from distsgd.comm.transport import worker_name
from distsgd.config import Config
from distsgd.core.backend import Device
from distsgd.core.net import Net
from distsgd.errors import DistsgdError, ResourceError, WorkerLostError

CONNECTED_S = 2.0
"""Seconds in which workers that have sat down are known to their server, as far as they live."""

BACK_OFF_S = 0.5
"""Seconds before a worker that was lost is replaced for the first time; twice as long each further time."""

log = logging.getLogger(__name__)


@dataclass
class ManagedWorker:
    """A worker's place in the run, whichever process fills it."""

    number: int
    actor: Any = None
    location: Location | None = None
    """Where its process is; None until that is set up."""
    initializing: Any = None
    """The reply to `spec` that is awaited."""
    restarts: int = 0
    due: float | None = None
    """When another process is to be started, on the monotonic clock."""

    @property
    def name(self) -> str:
        """What messages call it."""
        return worker_name(self.number)


@dataclass
class ManagedAggregator:
    """An aggregator and the workers that have sat down with it."""

    actor: Any
    name: str
    location: Location
    members: list[ManagedWorker] = field(default_factory=list)
    joined: bool = False
    """Whether the server knows of it."""


class WorkerGroup:
    """Workers, and an aggregator on each node that is not the server's."""

    def __init__(
        self,
        config: Config,
        net: Net,
        *,
        workers: int,
        device: Device,
        runtime_env: dict[str, Any],
        spec: dict[str, Any],
    ) -> None:
        self._config, self._net, self._device, self._runtime_env = config, net, device, runtime_env
        self._spec = {
            "blas_threads": config.run.blas_threads,
            "blas_kernel": config.run.blas_kernel,
            "device": device,
            "net": net,
            **spec,
        }
        self.members = [ManagedWorker(number) for number in range(workers)]
        self.numerics: dict[str, str] = {}
        self.notices: list[str] = []
        self._aggregators: dict[str, ManagedAggregator] = {}  # by node
        self.arrival_timeout_s = max(config.run.timeout_s, START_S)
        """Seconds that a process which is starting may take."""
        self._server: Any = None
        self._server_place = Location("", "", 0, "")

    def start(self) -> None:
        """Start all workers and wait until they are ready; a difference in arithmetic becomes a warning."""
        for member in self.members:
            self._start_process(member)
        for member in self.members:
            self._register(member)

    def _start_process(self, member: ManagedWorker) -> None:
        """Start a worker's process and have it set up."""
        run = self._config.run
        gpus = run.gpus_per_worker if self._device == "cuda" else 0
        options = {"num_cpus": run.blas_threads, "num_gpus": gpus, "runtime_env": self._runtime_env}
        member.actor = ray.remote(WorkerActor).options(**options).remote()
        member.initializing = member.actor.initialize.remote(number=member.number, **self._spec)

    def _register(self, member: ManagedWorker) -> None:
        """Note where a worker that has been set up is, and compare its arithmetic with the first one's."""
        reply, member.initializing = member.initializing, None
        try:
            member.location, fingerprint = answer(reply, member.name, self.arrival_timeout_s)
        except ResourceError as error:
            raise ResourceError(f"{error}: the cluster's CPUs or GPUs may be taken by other jobs") from None
        self.numerics = self.numerics or fingerprint
        if fingerprint != self.numerics:
            self.notices.append(
                f"{member.name} computes with {fingerprint}, and others with {self.numerics}: the last bits depend on "
                "which of them computes what; run.blas_kernel holds all to one kernel"
            )

    @property
    def present(self) -> list[ManagedWorker]:
        """The workers that are there and set up."""
        return [member for member in self.members if member.location]

    def busiest_node(self) -> tuple[str | None, int]:
        """Return the node that most workers are on, and how many; None if there is no worker."""
        counts = Counter(member.location.node for member in self.members if member.location)
        return counts.most_common(1)[0] if counts else (None, 1)

    # Seating: bringing workers to the server.

    def connect_all(self, server: Any, location: Location) -> None:
        """Bring every worker that there is to a new server: by shared memory, by an aggregator, or else by calls."""
        self._server, self._server_place = server, location
        for aggregator in self._aggregators.values():
            end(aggregator.actor, aggregator.location)
        self._aggregators = {}
        for node in sorted({member.location.node for member in self.present if member.location}):
            self._connect_node(node, [m for m in self.present if m.location and m.location.node == node])
        self._await_size(lambda: self._ask(server.size.remote()), len(self.present))

    def _connect_node(self, node: str, members: list[ManagedWorker]) -> None:
        """Bring some workers of one node to the server; those that are dead, or die with their aggregator, are lost."""
        try:
            self._connect_together(node, members)
        except (WorkerLostError, ResourceError) as error:
            aggregator = self._aggregators.get(node)
            if aggregator is not None:
                aggregator.members = [member for member in aggregator.members if member not in members]
                self._lose_aggregator(node, str(error))
            for member in members:
                if member.location is not None:
                    self.lose(member, str(error))

    def _connect_together(self, node: str, members: list[ManagedWorker]) -> None:
        if self._config.run.link == "ray":
            for member in members:
                self._connect_by_calls(member)
            return
        aggregator = None
        if node != self._server_place.node:
            aggregator = self._aggregators.get(node) or self._start_aggregator(node, len(members))
        host = self._server_place if aggregator is None else aggregator.location
        for member in members:
            try:
                reply = member.actor.connect.remote(host.address)
                problem = answer(reply, member.name, self._config.run.timeout_s)
            except (WorkerLostError, ResourceError) as error:
                self.lose(member, str(error))
                continue
            if problem is not None:
                log.warning("%s is reached by plain Ray calls: no shared memory (%s)", member.name, problem)
                self._connect_by_calls(member)
            elif aggregator is not None:
                aggregator.members.append(member)
        if aggregator is not None and aggregator.members:
            actor, name = aggregator.actor, aggregator.name
            self._await_size(
                lambda: answer(actor.size.remote(), name, self._config.run.timeout_s), len(aggregator.members)
            )
            self._weigh(aggregator)

    def _connect_by_calls(self, member: ManagedWorker) -> None:
        assert member.location is not None
        location = member.location
        self._ask(self._server.join.remote(member.actor, member.name, location.host, location.pid, 1))

    def _start_aggregator(self, node: str, workers: int) -> ManagedAggregator:
        strategy = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
        actor: Any = (
            ray.remote(AggregatorActor)
            .options(num_cpus=0, max_concurrency=4, runtime_env=self._runtime_env, scheduling_strategy=strategy)
            .remote(config=self._config, net=self._net, workers=workers)
        )
        name = f"the aggregator of node {node[:8]}"
        location: Location = answer(actor.location.remote(), name, self.arrival_timeout_s)
        aggregator = self._aggregators[node] = ManagedAggregator(actor, name, location)
        return aggregator

    def _weigh(self, aggregator: ManagedAggregator) -> None:
        """Tell the server of an aggregator, or of the number of its workers if it knows of it."""
        weight = len(aggregator.members)
        if aggregator.joined:
            self._ask(self._server.reweigh.remote(aggregator.name, weight))
        else:
            self._ask(
                self._server.join.remote(
                    aggregator.actor, aggregator.name, aggregator.location.host, aggregator.location.pid, weight
                )
            )
            aggregator.joined = True

    def _ask(self, reply: Any) -> Any:
        return ask_server(reply, self._config.run.timeout_s)

    def _await_size(self, known: Callable[[], int], size: int) -> None:
        """Return when a server or aggregator knows of all workers that have connected to it, or some of them died."""
        deadline = time.monotonic() + CONNECTED_S
        while known() < size and time.monotonic() < deadline:
            time.sleep(0.01)

    # Mending: noticing who was lost, and replacing them.

    def replace_lost(self) -> None:
        """Replace who was lost, endpoint who has been set up. Raises WorkerLostError if too few workers are left."""
        for loss in self._ask(self._server.take_lost_peers.remote()):
            self._note_loss(loss)
        losses: list[LostPeer] = []
        for node, aggregator in list(self._aggregators.items()):
            try:
                losses += answer(aggregator.actor.take_lost_peers.remote(), aggregator.name, self._config.run.timeout_s)
            except (WorkerLostError, ResourceError) as error:
                self._lose_aggregator(node, str(error))
        for loss in losses:
            self._note_loss(loss)
        now = time.monotonic()
        for member in self.members:
            if member.initializing is not None and ray.wait([member.initializing], timeout=0)[0]:
                self._connect_new(member)
            elif member.actor is None and member.due is not None and member.due <= now:
                member.due = None
                self._start_process(member)
        self._check_strength()

    def _note_loss(self, loss: LostPeer) -> None:
        for node, aggregator in list(self._aggregators.items()):
            if aggregator.name == loss.name and loss.pid == aggregator.location.pid:
                self._lose_aggregator(node, loss.problem, f" in step {loss.step}")
        for member in self.members:
            if member.name == loss.name and member.location is not None and loss.pid in (0, member.location.pid):
                self.lose(member, loss.problem, f" in step {loss.step}")

    def lose(self, member: ManagedWorker, problem: str, doing: str = "") -> None:
        """Give a worker's process up, and set the time for another, if there is to be one.

        `problem` says what was found, and `doing` in what.
        """
        self._note_lost(member.name, member.location, problem, doing)
        end(member.actor, member.location)
        member.actor = member.location = member.initializing = member.due = None
        if member.restarts < self._config.run.max_restarts:
            member.due = time.monotonic() + BACK_OFF_S * 2**member.restarts
            member.restarts += 1
        else:
            self.notices.append(
                f"{member.name} is not replaced any more (run.max_restarts is {self._config.run.max_restarts}); "
                "the others go on without it"
            )
        for aggregator in self._aggregators.values():
            if member in aggregator.members:
                aggregator.members.remove(member)
                if aggregator.members:
                    self._weigh(aggregator)

    def _lose_aggregator(self, node: str, problem: str, doing: str = "") -> None:
        """Give an aggregator up; its workers, if they live, get another one."""
        aggregator = self._aggregators.pop(node, None)
        if aggregator is None:
            return
        self._note_lost(aggregator.name, aggregator.location, problem, doing)
        end(aggregator.actor, aggregator.location)
        members, aggregator.members = aggregator.members, []
        alive = is_alive(node)
        if members and alive:
            self._connect_node(node, [member for member in members if member.location])
        for member in members:
            if not alive and member.location:
                self.lose(member, f"its node is gone ({problem})")

    def _note_lost(self, name: str, location: Location | None, problem: str, doing: str) -> None:
        where = f" on {location.host}" if location else ""
        self.notices.append(f"{name}{where} was lost{doing}: {problem.removeprefix(f'{name} ')}")

    def drop_dead_nodes(self) -> None:
        """Give up the workers of nodes that are gone; the aggregators there go as the next server is seated."""
        for member in self.present:
            if member.location and not is_alive(member.location.node):
                self.lose(member, "its node is gone")

    def _connect_new(self, member: ManagedWorker) -> None:
        """Endpoint a replacement that has been set up, or give it up too."""
        try:
            self._register(member)
        except DistsgdError as error:
            self.lose(member, str(error))
            return
        assert member.location is not None
        self._connect_node(member.location.node, [member])

    def _check_strength(self) -> None:
        """Raise WorkerLostError if fewer workers are left, and on their way, than the run may go on with."""
        left = sum(
            member.location is not None or member.actor is not None or member.due is not None for member in self.members
        )
        least = self._config.run.min_workers
        if left < least:
            raise WorkerLostError(
                f"{left} of {len(self.members)} workers {'is' if left == 1 else 'are'} left, which is fewer than "
                f"run.min_workers, {least}, and none is replaced more often than run.max_restarts, "
                f"{self._config.run.max_restarts}; what was trained is in the newest checkpoint: find out what ends "
                "the workers, then go on with --resume"
            )

    def resize(self, workers: int) -> None:
        """Let the run have so many workers: hire more, or do not replace those that are lost."""
        while len(self.members) < workers:
            member = ManagedWorker(max((m.number for m in self.members), default=-1) + 1)
            self.members.append(member)
            self._start_process(member)
        vacant = [member for member in self.members if not member.location]
        for member in vacant[: max(0, len(self.members) - workers)]:
            end(member.actor, None)
            self.members.remove(member)

    def take_notices(self) -> list[str]:
        """Return what the user should know that has happened since the last call."""
        notices, self.notices = self.notices, []
        return notices

    def close(self) -> None:
        """End all processes."""
        for actor in [
            *(member.actor for member in self.members),
            *(aggregator.actor for aggregator in self._aggregators.values()),
        ]:
            end(actor, None)
        self._aggregators = {}
