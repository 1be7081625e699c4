"""The workers of a run on Ray, and the relays between them and the server: started, seated, watched, replaced."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from distsgd.actors import START_S, Place, RelayActor, WorkerActor
from distsgd.backend import Device
from distsgd.calls import answer, ask_server, end, is_alive
from distsgd.config import Config
from distsgd.errors import DistsgdError, ResourceError, WorkerLostError
from distsgd.links import worker_name
from distsgd.links.crew import Loss
from distsgd.model import Net

SEATED_S = 2.0
"""Seconds in which workers that have sat down are known to their server, as far as they live."""

BACK_OFF_S = 0.5
"""Seconds before a worker that was lost is replaced for the first time; twice as long each further time."""

log = logging.getLogger(__name__)


@dataclass
class Member:
    """A worker's place in the run, whichever process fills it."""

    number: int
    actor: Any = None
    place: Place | None = None
    """Where its process is; None until that is set up."""
    setting_up: Any = None
    """The reply to `setup` that is awaited."""
    restarts: int = 0
    due: float | None = None
    """When another process is to be started, on the monotonic clock."""

    @property
    def name(self) -> str:
        """What messages call it."""
        return worker_name(self.number)


@dataclass
class RelayPost:
    """A relay and the workers that have sat down with it."""

    actor: Any
    name: str
    place: Place
    members: list[Member] = field(default_factory=list)
    joined: bool = False
    """Whether the server knows of it."""


class Staff:
    """Workers, and a relay on each node that is not the server's."""

    def __init__(
        self,
        config: Config,
        net: Net,
        *,
        workers: int,
        device: Device,
        runtime_env: dict[str, Any],
        setup: dict[str, Any],
    ) -> None:
        self._config, self._net, self._device, self._runtime_env = config, net, device, runtime_env
        self._setup = {
            "blas_threads": config.run.blas_threads,
            "blas_kernel": config.run.blas_kernel,
            "device": device,
            "net": net,
            **setup,
        }
        self.members = [Member(number) for number in range(workers)]
        self.numerics: dict[str, str] = {}
        self.notices: list[str] = []
        self._relays: dict[str, RelayPost] = {}  # by node
        self.patience_s = max(config.run.timeout_s, START_S)
        """Seconds that a process which is starting may take."""
        self._server: Any = None
        self._server_place = Place("", "", 0, "")

    def start(self) -> None:
        """Start all workers and wait until they are ready; a difference in arithmetic becomes a warning."""
        for member in self.members:
            self._hire(member)
        for member in self.members:
            self._take_in(member)

    def _hire(self, member: Member) -> None:
        """Start a worker's process and have it set up."""
        run = self._config.run
        gpus = run.gpus_per_worker if self._device == "cuda" else 0
        options = {"num_cpus": run.blas_threads, "num_gpus": gpus, "runtime_env": self._runtime_env}
        member.actor = ray.remote(WorkerActor).options(**options).remote()
        member.setting_up = member.actor.setup.remote(number=member.number, **self._setup)

    def _take_in(self, member: Member) -> None:
        """Note where a worker that has been set up is, and compare its arithmetic with the first one's."""
        reply, member.setting_up = member.setting_up, None
        try:
            member.place, fingerprint = answer(reply, member.name, self.patience_s)
        except ResourceError as error:
            raise ResourceError(f"{error}: the cluster's CPUs or GPUs may be taken by other jobs") from None
        self.numerics = self.numerics or fingerprint
        if fingerprint != self.numerics:
            self.notices.append(
                f"{member.name} computes with {fingerprint}, and others with {self.numerics}: the last bits depend on "
                "which of them computes what; run.blas_kernel holds all to one kernel"
            )

    @property
    def present(self) -> list[Member]:
        """The workers that are there and set up."""
        return [member for member in self.members if member.place]

    def busiest_node(self) -> tuple[str | None, int]:
        """Return the node that most workers are on, and how many; None if there is no worker."""
        counts = Counter(member.place.node for member in self.members if member.place)
        return counts.most_common(1)[0] if counts else (None, 1)

    # Seating: bringing workers to the server.

    def seat(self, server: Any, place: Place) -> None:
        """Bring every worker that there is to a new server: by shared memory, by a relay, or else by calls."""
        self._server, self._server_place = server, place
        for relay in self._relays.values():
            end(relay.actor, relay.place)
        self._relays = {}
        for node in sorted({member.place.node for member in self.present if member.place}):
            self._seat_node(node, [m for m in self.present if m.place and m.place.node == node])
        self._await_size(lambda: self._ask(server.size.remote()), len(self.present))

    def _seat_node(self, node: str, members: list[Member]) -> None:
        """Bring some workers of one node to the server; those that are dead, or die with their relay, are lost."""
        try:
            self._seat_together(node, members)
        except (WorkerLostError, ResourceError) as error:
            relay = self._relays.get(node)
            if relay is not None:
                relay.members = [member for member in relay.members if member not in members]
                self._lose_relay(node, str(error))
            for member in members:
                if member.place is not None:
                    self.lose(member, str(error))

    def _seat_together(self, node: str, members: list[Member]) -> None:
        if self._config.run.link == "ray":
            for member in members:
                self._seat_by_calls(member)
            return
        relay = None
        if node != self._server_place.node:
            relay = self._relays.get(node) or self._open_relay(node, len(members))
        host = self._server_place if relay is None else relay.place
        for member in members:
            try:
                reply = member.actor.sit_down.remote(host.address)
                problem = answer(reply, member.name, self._config.run.timeout_s)
            except (WorkerLostError, ResourceError) as error:
                self.lose(member, str(error))
                continue
            if problem is not None:
                log.warning("%s is reached by plain Ray calls: no shared memory (%s)", member.name, problem)
                self._seat_by_calls(member)
            elif relay is not None:
                relay.members.append(member)
        if relay is not None and relay.members:
            actor, name = relay.actor, relay.name
            self._await_size(lambda: answer(actor.size.remote(), name, self._config.run.timeout_s), len(relay.members))
            self._weigh(relay)

    def _seat_by_calls(self, member: Member) -> None:
        assert member.place is not None
        place = member.place
        self._ask(self._server.join.remote(member.actor, member.name, place.host, place.pid, 1))

    def _open_relay(self, node: str, workers: int) -> RelayPost:
        strategy = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
        actor: Any = (
            ray.remote(RelayActor)
            .options(num_cpus=0, max_concurrency=4, runtime_env=self._runtime_env, scheduling_strategy=strategy)
            .remote(config=self._config, net=self._net, workers=workers)
        )
        name = f"the relay of node {node[:8]}"
        place: Place = answer(actor.place.remote(), name, self.patience_s)
        relay = self._relays[node] = RelayPost(actor, name, place)
        return relay

    def _weigh(self, relay: RelayPost) -> None:
        """Tell the server of a relay, or of the number of its workers if it knows of it."""
        weight = len(relay.members)
        if relay.joined:
            self._ask(self._server.reweigh.remote(relay.name, weight))
        else:
            self._ask(self._server.join.remote(relay.actor, relay.name, relay.place.host, relay.place.pid, weight))
            relay.joined = True

    def _ask(self, reply: Any) -> Any:
        return ask_server(reply, self._config.run.timeout_s)

    def _await_size(self, known: Callable[[], int], size: int) -> None:
        """Return when a server or relay knows of all workers that have sat down with it, unless some of those died."""
        deadline = time.monotonic() + SEATED_S
        while known() < size and time.monotonic() < deadline:
            time.sleep(0.01)

    # Mending: noticing who was lost, and replacing them.

    def mend(self) -> None:
        """Replace who was lost, seat who has been set up. Raises WorkerLostError if too few workers are left."""
        for loss in self._ask(self._server.take_losses.remote()):
            self._note_loss(loss)
        losses: list[Loss] = []
        for node, relay in list(self._relays.items()):
            try:
                losses += answer(relay.actor.take_losses.remote(), relay.name, self._config.run.timeout_s)
            except (WorkerLostError, ResourceError) as error:
                self._lose_relay(node, str(error))
        for loss in losses:
            self._note_loss(loss)
        now = time.monotonic()
        for member in self.members:
            if member.setting_up is not None and ray.wait([member.setting_up], timeout=0)[0]:
                self._seat_new(member)
            elif member.actor is None and member.due is not None and member.due <= now:
                member.due = None
                self._hire(member)
        self._check_strength()

    def _note_loss(self, loss: Loss) -> None:
        for node, relay in list(self._relays.items()):
            if relay.name == loss.name and loss.pid == relay.place.pid:
                self._lose_relay(node, loss.problem, f" in step {loss.step}")
        for member in self.members:
            if member.name == loss.name and member.place is not None and loss.pid in (0, member.place.pid):
                self.lose(member, loss.problem, f" in step {loss.step}")

    def lose(self, member: Member, problem: str, doing: str = "") -> None:
        """Give a worker's process up, and set the time for another, if there is to be one.

        `problem` says what was found, and `doing` in what.
        """
        self._note_lost(member.name, member.place, problem, doing)
        end(member.actor, member.place)
        member.actor = member.place = member.setting_up = member.due = None
        if member.restarts < self._config.run.max_restarts:
            member.due = time.monotonic() + BACK_OFF_S * 2**member.restarts
            member.restarts += 1
        else:
            self.notices.append(
                f"{member.name} is not replaced any more (run.max_restarts is {self._config.run.max_restarts}); "
                "the others go on without it"
            )
        for relay in self._relays.values():
            if member in relay.members:
                relay.members.remove(member)
                if relay.members:
                    self._weigh(relay)

    def _lose_relay(self, node: str, problem: str, doing: str = "") -> None:
        """Give a relay up; its workers, if they live, get another one."""
        relay = self._relays.pop(node, None)
        if relay is None:
            return
        self._note_lost(relay.name, relay.place, problem, doing)
        end(relay.actor, relay.place)
        members, relay.members = relay.members, []
        alive = is_alive(node)
        if members and alive:
            self._seat_node(node, [member for member in members if member.place])
        for member in members:
            if not alive and member.place:
                self.lose(member, f"its node is gone ({problem})")

    def _note_lost(self, name: str, place: Place | None, problem: str, doing: str) -> None:
        where = f" on {place.host}" if place else ""
        self.notices.append(f"{name}{where} was lost{doing}: {problem.removeprefix(f'{name} ')}")

    def miss_nodes(self) -> None:
        """Give up the workers of nodes that are gone; the relays there go as the next server is seated."""
        for member in self.present:
            if member.place and not is_alive(member.place.node):
                self.lose(member, "its node is gone")

    def _seat_new(self, member: Member) -> None:
        """Seat a replacement that has been set up, or give it up too."""
        try:
            self._take_in(member)
        except DistsgdError as error:
            self.lose(member, str(error))
            return
        assert member.place is not None
        self._seat_node(member.place.node, [member])

    def _check_strength(self) -> None:
        """Raise WorkerLostError if fewer workers are left, and on their way, than the run may go on with."""
        left = sum(
            member.place is not None or member.actor is not None or member.due is not None for member in self.members
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
            member = Member(max((m.number for m in self.members), default=-1) + 1)
            self.members.append(member)
            self._hire(member)
        vacant = [member for member in self.members if not member.place]
        for member in vacant[: max(0, len(self.members) - workers)]:
            end(member.actor, None)
            self.members.remove(member)

    def take_notices(self) -> list[str]:
        """Return what the user should know that has happened since the last call."""
        notices, self.notices = self.notices, []
        return notices

    def close(self) -> None:
        """End all processes."""
        for actor in [*(member.actor for member in self.members), *(relay.actor for relay in self._relays.values())]:
            end(actor, None)
        self._relays = {}
