"""Connecting workers to the parameter server.

On the server's node they use shared memory. A worker that is alone on another node uses TCP; several on one node share
an aggregator, which does. Where that is not possible, Ray calls are used.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from distsgd.cluster.actors import Location
from distsgd.cluster.gradient_actors import AggregatorActor
from distsgd.cluster.launching import Launcher
from distsgd.cluster.rpc import (
    SERVER,
    Tick,
    alive_nodes,
    await_replies,
    await_reply,
    await_server,
    end,
    no_tick,
)
from distsgd.cluster.tcp_link import TcpLink
from distsgd.cluster.worker_state import Connected, ManagedWorker, Ready
from distsgd.cluster.workers import Workers
from distsgd.comm.membership import LostPeer
from distsgd.config import Config
from distsgd.core.net import Net
from distsgd.errors import DistsgdError, ResourceError, ServerLostError, WorkerLostError

CONNECTED_S = 2.0
"""Seconds to wait until the server has registered the workers that have connected."""

log = logging.getLogger(__name__)


@dataclass
class ManagedAggregator:
    """The aggregator of a node."""

    actor: Any
    name: str
    location: Location
    announced: int = 0
    """Number of its workers as last reported to the server; 0 if the server does not know it."""

    by_tcp: bool = False
    """Whether it is connected to the server by TCP."""


class SliceMember(NamedTuple):
    """A peer of the server on another node, which can own a slice of the parameters."""

    actor: Any
    name: str
    pid: int
    weight: int


class Connections:
    """The server of a run, the aggregators of other nodes, and which worker is connected to which.

    Failures are recorded in the states of the workers, and `connect_ready` acts on these alone: a failure while workers
    are being connected never connects others recursively.
    """

    def __init__(
        self, config: Config, net: Net, workers: Workers, *, launcher: Launcher, start_timeout_s: float
    ) -> None:
        self._config, self._net, self._workers = config, net, workers
        self._launcher, self._start_timeout_s = launcher, start_timeout_s
        self._timeout_s = config.run.reply_timeout_s
        self._aggregators: dict[str, ManagedAggregator] = {}  # by node
        self._server: Any = None
        self._server_location = Location("", "", 0, "")
        self.tcp = TcpLink(config, net.size, workers.note)
        """The run's connections by TCP."""

    def connect_all(self, server: Any, location: Location) -> None:
        """Connect every worker that can compute to a new server."""
        self.close()
        self._server, self._server_location = server, location
        self.tcp.use(server)
        for worker, state in self._workers.connected():
            worker.become(Ready(state.actor, state.location), "a new server")
        self.connect_ready(no_tick)
        self._await_size(lambda: self._ask(server.size.remote()), len(self._workers.connected()))

    def connect_ready(self, tick: Tick) -> None:
        """Connect all ready workers, then report changes to the server.

        Each pass takes the ready workers of one node, and leaves each of them connected or lost.
        """
        while ready := self._workers.ready():
            node = ready[0][1].location.node
            self._connect_node(node, [(worker, state) for worker, state in ready if state.location.node == node], tick)
        self._announce()

    def _connect_node(self, node: str, ready: list[tuple[ManagedWorker, Ready]], tick: Tick) -> None:
        if self._config.run.link == "ray":
            for worker, state in ready:
                self._connect_by_calls(worker, state)
            return
        if node == self._server_location.node:
            self._connect_to(self._server_location.address, None, ready, tick)
            return
        if node not in self._aggregators and self._is_only_worker(ready[0][0], node):
            self._connect_directly(*ready[0])
            return
        try:
            aggregator = self._aggregators.get(node) or self._start_aggregator(node, len(ready))
            self._connect_to(aggregator.location.address, aggregator.name, ready, tick)
            self._await_size(
                lambda: await_reply(aggregator.actor.size.remote(), aggregator.name, self._timeout_s),
                len(self._behind(aggregator)),
            )
        except (WorkerLostError, ResourceError) as error:
            self._lose_aggregator(node, str(error))
            for worker, _ in ready:
                if isinstance(worker.state, Ready):
                    self._workers.lose(worker, str(error))

    def _connect_to(
        self, address: str, aggregator: str | None, ready: list[tuple[ManagedWorker, Ready]], tick: Tick
    ) -> None:
        """Connect workers of one node to the socket of the server or of their aggregator, or else by Ray calls."""
        calls = [(state.actor.connect.remote(address), worker.name) for worker, state in ready]
        for (worker, state), problem in zip(ready, await_replies(calls, self._timeout_s, tick), strict=True):
            if isinstance(problem, DistsgdError):
                self._workers.lose(worker, str(problem))
            elif problem is not None:
                log.warning("%s is reached by plain Ray calls: no shared memory (%s)", worker.name, problem)
                self._connect_by_calls(worker, state)
            else:
                worker.become(Connected(state.actor, state.location, aggregator), f"to {aggregator or SERVER}")

    def _is_only_worker(self, worker: ManagedWorker, node: str) -> bool:
        """Return whether no other worker is on a node, so that an aggregator would have nothing to add."""
        return [other for other, state in self._workers.located() if state.location.node == node] == [worker]

    def _connect_directly(self, worker: ManagedWorker, state: Ready) -> None:
        """Connect a worker to the server on another node, by TCP or else by Ray calls."""
        location = state.location
        try:
            if self.tcp.connect(state.actor, worker.name, location, 1):
                worker.become(Connected(state.actor, location, None, by_tcp=True), f"to {SERVER} by TCP")
            else:
                self._connect_by_calls(worker, state)
        except WorkerLostError as error:
            self._workers.lose(worker, str(error))

    def _connect_by_calls(self, worker: ManagedWorker, state: Ready) -> None:
        location = state.location
        self._ask(self._server.join.remote(state.actor, worker.name, location.host, location.pid, 1))
        worker.become(Connected(state.actor, location, None), f"to {SERVER} by Ray calls")

    def _start_aggregator(self, node: str, workers: int) -> ManagedAggregator:
        strategy = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
        name = f"the aggregator of node {node[:8]}"
        options = {"num_cpus": 0, "max_concurrency": 4, "scheduling_strategy": strategy}
        actor = self._launcher.start(
            AggregatorActor, name, options=options, config=self._config, net=self._net, workers=workers
        )
        try:
            location: Location = await_reply(actor.location.remote(), name, self._start_timeout_s)
        except DistsgdError:
            end(actor, None)
            raise
        aggregator = self._aggregators[node] = ManagedAggregator(actor, name, location)
        return aggregator

    def _behind(self, aggregator: ManagedAggregator) -> list[tuple[ManagedWorker, Connected]]:
        return [(worker, state) for worker, state in self._workers.connected() if state.aggregator == aggregator.name]

    def _announce(self) -> None:
        """Report new aggregators, and changes in their numbers of workers, to the server.

        Skip aggregators without workers: they fail at their next task, and the server then marks them as lost.
        """
        for node, aggregator in list(self._aggregators.items()):
            weight = len(self._behind(aggregator))
            if weight in (0, aggregator.announced):
                continue
            try:
                if aggregator.announced:
                    self._ask(self._server.reweigh.remote(aggregator.name, weight))
                else:
                    self._introduce(aggregator, weight)
                aggregator.announced = weight
            except WorkerLostError as error:
                self._lose_aggregator(node, str(error))

    def _introduce(self, aggregator: ManagedAggregator, weight: int) -> None:
        """Connect an aggregator with `weight` workers to the server, by TCP or else by Ray calls."""
        actor, name, location = aggregator.actor, aggregator.name, aggregator.location
        aggregator.by_tcp = self.tcp.connect(actor, name, location, weight)
        if not aggregator.by_tcp:
            self._ask(self._server.join.remote(actor, name, location.host, location.pid, weight))

    def _ask(self, reply: Any) -> Any:
        return await_server(reply, self._timeout_s)

    def _await_size(self, known: Callable[[], int], size: int) -> None:
        """Wait until a server or aggregator knows `size` workers; stop after CONNECTED_S, as some may have died."""
        deadline = time.monotonic() + CONNECTED_S
        while known() < size and time.monotonic() < deadline:
            time.sleep(0.01)

    def take_lost_peers(self, tick: Tick) -> None:
        """Get the lost peers from the server and the aggregators. Raise ServerLostError if the server is lost."""
        aggregators = list(self._aggregators.items())
        calls = [(self._server.take_lost_peers.remote(), SERVER)]
        calls += [(aggregator.actor.take_lost_peers.remote(), aggregator.name) for _, aggregator in aggregators]
        from_server, *from_aggregators = await_replies(calls, self._timeout_s, tick)
        if isinstance(from_server, DistsgdError):
            raise ServerLostError(str(from_server))
        losses: list[LostPeer] = [*from_server]
        for (node, _), found in zip(aggregators, from_aggregators, strict=True):
            if isinstance(found, DistsgdError):
                self._lose_aggregator(node, str(found))
            else:
                losses += found
        for loss in losses:
            self._note_loss(loss)

    def _note_loss(self, loss: LostPeer) -> None:
        """Handle the loss of a worker or an aggregator, unless it has been replaced already."""
        doing = f" in step {loss.step}"
        for node, aggregator in list(self._aggregators.items()):
            if (aggregator.name, aggregator.location.pid) == (loss.name, loss.pid):
                self._lose_aggregator(node, loss.problem, doing)
        for worker, state in self._workers.located():
            if worker.name == loss.name and loss.pid in (0, state.location.pid):
                self._workers.lose(worker, loss.problem, doing)

    def _lose_aggregator(self, node: str, problem: str, doing: str = "") -> None:
        """Mark the aggregator of a node as lost, if there is one; reconnect its workers if the node is alive."""
        aggregator = self._aggregators.pop(node, None)
        if aggregator is None:
            return
        self._workers.note_lost(aggregator.name, aggregator.location, problem, doing)
        end(aggregator.actor, aggregator.location)
        alive = node in alive_nodes()
        for worker, state in self._behind(aggregator):
            if alive:
                worker.become(Ready(state.actor, state.location), f"{aggregator.name} was lost")
            else:
                self._workers.lose(worker, f"its node is dead ({problem})")

    def slice_members(self) -> tuple[int, list[SliceMember]]:
        """Return the number of workers on the server's node, and its peers on other nodes.

        There are none unless all of them are connected by TCP.
        """
        here, members = 0, []
        for aggregator in self._aggregators.values():
            if aggregator.announced and not aggregator.by_tcp:
                return 0, []
            if aggregator.announced:
                members.append(
                    SliceMember(aggregator.actor, aggregator.name, aggregator.location.pid, aggregator.announced)
                )
        for worker, state in self._workers.connected():
            if state.by_tcp:
                members.append(SliceMember(state.actor, worker.name, state.location.pid, 1))
            elif state.aggregator is None:
                here += 1
                if state.location.node != self._server_location.node:  # by Ray calls
                    return 0, []
        return here, members

    def drop_dead_nodes(self) -> None:
        """Mark the workers of dead nodes as lost; `connect_all` forgets the aggregators there."""
        alive = alive_nodes()
        for worker, state in self._workers.located():
            if state.location.node not in alive:
                self._workers.lose(worker, "its node is dead")

    def close(self) -> None:
        """End the aggregators."""
        for aggregator in self._aggregators.values():
            end(aggregator.actor, aggregator.location)
        self._aggregators = {}
