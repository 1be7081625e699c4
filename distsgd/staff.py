"""The workers of a run on Ray, and the relays between them and the server: started, seated, watched, replaced."""

from __future__ import annotations

import logging
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from distsgd.actors import Place, RelayActor, WorkerActor
from distsgd.backend import Device
from distsgd.config import Config
from distsgd.errors import DistsgdError, ResourceError, TrainingError, WorkerLostError
from distsgd.model import Net

SEATED_S = 15.0
"""Seconds in which a worker that has sat down has to be known to its server."""

BACK_OFF_S = 0.5
"""Seconds before a worker that was lost is replaced for the first time; twice as long each further time."""

log = logging.getLogger(__name__)


def answer(reply: Any, who: str, timeout_s: float) -> Any:
    """Return what an actor answers; its errors come as they were raised there."""
    try:
        return ray.get(reply, timeout=timeout_s)
    except RayTaskError as error:
        if isinstance(error.cause, DistsgdError):
            raise error.cause from None
        raise TrainingError(f"{who} failed: {error.cause!r}") from error
    except RayActorError as error:
        raise WorkerLostError(f"{who} died: {' '.join(str(error).split())[:300]}") from None
    except GetTimeoutError:
        raise ResourceError(
            f"{who} has not answered for {timeout_s:g} s: the cluster's CPUs or GPUs may be taken by other jobs"
        ) from None


@dataclass
class Member:
    """A worker's place in the run, whichever process fills it."""

    number: int
    actor: Any = None
    place: Place | None = None
    fingerprint: dict[str, str] = field(default_factory=dict)
    restarts: int = 0
    due: float = 0.0
    """When a replacement is to be started, on the monotonic clock, while there is no actor."""
    setting_up: Any = None
    """The reply to `setup` of a replacement that is not seated yet."""

    @property
    def name(self) -> str:
        """How messages call it."""
        return f"worker {self.number}"


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
        self._relays: dict[str, Any] = {}
        self._server: Any = None
        self._server_place: Place | None = None
        self.warnings: list[str] = []

    def start(self) -> None:
        """Start all workers and wait until they are ready; a difference in arithmetic becomes a warning."""
        for member in self.members:
            self._hire(member)
        for member in self.members:
            self._await_setup(member)
        first = self.members[0].fingerprint
        for member in self.members[1:]:
            if member.fingerprint != first:
                self.warnings.append(
                    f"{member.name} computes with {member.fingerprint}, worker 0 with {first}: the last bits depend on "
                    "which of them computes what; run.blas_kernel holds all to one kernel"
                )

    @property
    def numerics(self) -> dict[str, str]:
        """The fingerprint of the first worker's arithmetic."""
        return self.members[0].fingerprint

    def busiest_node(self) -> tuple[str, int]:
        """Return the node that most workers are on, and how many."""
        counts = Counter(member.place.node for member in self.members if member.place)
        return counts.most_common(1)[0]

    def _hire(self, member: Member) -> None:
        """Start a worker's process and have it set up."""
        run = self._config.run
        gpus = run.gpus_per_worker if self._device == "cuda" else 0
        options = {"num_cpus": run.blas_threads, "num_gpus": gpus, "runtime_env": self._runtime_env}
        member.actor = ray.remote(WorkerActor).options(**options).remote()
        member.setting_up = member.actor.setup.remote(**self._setup)

    def _await_setup(self, member: Member) -> None:
        reply, member.setting_up = member.setting_up, None
        member.place, member.fingerprint = self._get(reply, member.name)

    def _get(self, reply: Any, who: str) -> Any:
        return answer(reply, who, self._config.run.timeout_s)

    def seat(self, server: Any, place: Place) -> None:
        """Bring every worker that there is to a new server: by shared memory, by a relay, or else by calls."""
        self._server, self._server_place = server, place
        for relay in self._relays.values():
            ray.kill(relay)
        self._relays = {}
        present = [member for member in self.members if member.place]
        for node in sorted({member.place.node for member in present if member.place}):
            self._seat_node(node, [member for member in present if member.place and member.place.node == node])
        self._await_size(server, len(present), "the parameter server")

    def _seat_node(self, node: str, members: list[Member]) -> None:
        """Bring the workers of one node to the server."""
        assert self._server_place is not None
        if self._config.run.link == "ray":
            for member in members:
                self._seat_by_calls(member)
        elif node == self._server_place.node:
            for member in members:
                self._seat_by_memory(member, self._server_place)
        else:
            self._seat_by_relay(node, members)

    def _seat_by_memory(self, member: Member, host: Place) -> bool:
        problem = self._get(member.actor.sit_down.remote(host.address, member.name), member.name)
        if problem is not None:
            log.warning("%s is reached by plain Ray calls: no shared memory (%s)", member.name, problem)
            self._seat_by_calls(member)
        return problem is None

    def _seat_by_calls(self, member: Member) -> None:
        assert member.place is not None
        self._get(self._server.join.remote(member.actor, member.name, member.place.host, 1), "the parameter server")

    def _seat_by_relay(self, node: str, members: list[Member]) -> None:
        strategy = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
        relay: Any = (
            ray.remote(RelayActor)
            .options(num_cpus=0, max_concurrency=4, runtime_env=self._runtime_env, scheduling_strategy=strategy)
            .remote(config=self._config, net=self._net, workers=len(members))
        )
        self._relays[node] = relay
        name = f"the relay of node {node[:8]}"
        place: Place = self._get(relay.place.remote(), name)
        seated = sum(self._seat_by_memory(member, place) for member in members)
        if seated:
            self._await_size(relay, seated, name)
            self._get(self._server.join.remote(relay, name, place.host, seated), "the parameter server")

    def _await_size(self, host: Any, size: int, who: str) -> None:
        """Return when a server or relay knows of all workers that have sat down with it."""
        deadline = time.monotonic() + SEATED_S
        while (found := self._get(host.size.remote(), who)) < size:
            if time.monotonic() > deadline:
                raise WorkerLostError(f"only {found} of {size} workers have reached {who} within {SEATED_S:g} s")
            time.sleep(0.01)

    def close(self) -> None:
        """End all processes."""
        for actor in [*(member.actor for member in self.members), *self._relays.values()]:
            if actor is not None:
                ray.kill(actor)
        self._relays = {}
