"""Training on Ray: a parameter server, its staff of workers, and the rows that they share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from distsgd import reduction, validation
from distsgd.actors import Place, ServerActor
from distsgd.backend import Device
from distsgd.setup import Setup
from distsgd.staff import Staff, answer
from distsgd.state import Snapshot

TICK_S = 0.2
"""Seconds between two looks at a training server."""

SERVER = "the parameter server"


class RayTrainer:
    """A parameter server and workers on the Ray that this process is connected to."""

    def __init__(self, setup: Setup, *, workers: int, device: Device, runtime_env: dict[str, Any]) -> None:
        self._setup, self._config, self._runtime_env = setup, setup.config, runtime_env
        data = setup.data
        # From here on this process, too, reads the node's one copy of the rows.
        train, val = ray.put(data.train), None if data.val is None else ray.put(data.val)
        self.data = dataclasses.replace(data, train=ray.get(train), val=None if val is None else ray.get(val))
        rows = {"sampler": setup.plan.sampler, "train": train, "val": val, "transform": data.transform}
        self._server: Any = None
        self._staff = Staff(
            setup.config, setup.net, workers=workers, device=device, runtime_env=runtime_env, setup=rows
        )
        try:
            self._staff.start()
            self._start_server(setup.start)
        except BaseException:
            self.close()
            raise
        self.warnings, self.numerics = self._staff.warnings, self._staff.numerics

    def _start_server(self, start: Snapshot) -> None:
        """Start a server at a state of training, where most workers are, and bring all workers to it."""
        node, workers = self._staff.busiest_node()
        strategy = NodeAffinitySchedulingStrategy(node_id=node, soft=True)
        remote = ray.remote(ServerActor).options(
            num_cpus=0, max_concurrency=4, runtime_env=self._runtime_env, scheduling_strategy=strategy
        )
        self._server = remote.remote(
            config=self._config, net=self._setup.net, plan=self._setup.plan, start=start, workers=workers
        )
        place: Place = self._call(self._server.place.remote())
        self._staff.seat(self._server, place)

    def _call(self, reply: Any) -> Any:
        return answer(reply, SERVER, self._config.run.timeout_s)

    def run(self, until: int, tick: Callable[[], None]) -> int:
        """Train up to step `until` or until `stop`; call `tick` several times a second. Return the steps done."""
        reply = self._server.run.remote(until)
        while not ray.wait([reply], timeout=TICK_S)[0]:
            tick()
        steps: int = self._call(reply)
        return steps

    def stop(self) -> None:
        """Make `run` return after the step at hand."""
        self._server.stop.remote()

    def take_records(self) -> list[dict[str, Any]]:
        """See ParameterServer.take_records."""
        records: list[dict[str, Any]] = self._call(self._server.take_records.remote())
        return records

    def snapshot(self) -> Snapshot:
        """See ParameterServer.snapshot."""
        snapshot: Snapshot = self._call(self._server.snapshot.remote())
        return snapshot

    def timings(self) -> dict[str, float]:
        """See ParameterServer.timings."""
        timings: dict[str, float] = self._call(self._server.timings.remote())
        return timings

    def evaluate(self) -> dict[str, float]:
        """Return loss and accuracy over the held-out rows, each worker taking a share of their blocks."""
        if self.data.val is None:
            return {}
        rows = len(self.data.val.y)
        flat = self._server.current_parameters.remote()
        members = self._staff.members
        shares = reduction.assign(len(members), validation.block_count(rows))
        replies = [member.actor.evaluate.remote(flat, share) for member, share in zip(members, shares, strict=True)]
        timeout_s = self._config.run.timeout_s
        found = [answer(reply, member.name, timeout_s) for member, reply in zip(members, replies, strict=True)]
        return validation.metrics([block for blocks in found for block in blocks], rows)

    def close(self) -> None:
        """End the actors."""
        self._staff.close()
        if self._server is not None:
            ray.kill(self._server)
            self._server = None
