"""Training on Ray: a parameter server, its staff of workers, and the rows that they share."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from distsgd.cluster.actors import Location, ServerActor
from distsgd.cluster.rpc import answer, ask_server, end
from distsgd.cluster.worker_group import WorkerGroup
from distsgd.core import reduction
from distsgd.core.backend import Device
from distsgd.engine import validation
from distsgd.engine.snapshot import Snapshot
from distsgd.engine.spec import RunSpec
from distsgd.errors import ResourceError, WorkerLostError

TICK_S = 0.2
"""Seconds between two looks at a training server."""

GROW_S = 5.0
"""Seconds between two looks at whether the cluster has grown, if the number of workers is what it has."""


class RayTrainer:
    """A parameter server and workers on the Ray that this process is connected to."""

    def __init__(
        self,
        spec: RunSpec,
        *,
        workers: int,
        device: Device,
        runtime_env: dict[str, Any],
        wanted: Callable[[], int] | None = None,
    ) -> None:
        """Start all actors; `wanted` says how many workers the cluster has room for, if their number may change."""
        self._spec, self._config, self._runtime_env = spec, spec.config, runtime_env
        self._wanted, self._looked = wanted, time.monotonic()
        self._mended = self._looked
        data = spec.data
        # From here on this process, too, reads the node's one copy of the rows.
        train, val = ray.put(data.train), None if data.val is None else ray.put(data.val)
        self.data = dataclasses.replace(data, train=ray.get(train), val=None if val is None else ray.get(val))
        rows = {"sampler": spec.plan.sampler, "train": train, "val": val, "transform": data.transform}
        self._server: Any = None
        self._location: Location | None = None
        self._group = WorkerGroup(
            spec.config, spec.net, workers=workers, device=device, runtime_env=runtime_env, spec=rows
        )
        try:
            self._group.start()
            self._start_server(spec.start)
        except BaseException:
            self.close()
            raise
        self.numerics = self._group.numerics

    def _start_server(self, start: Snapshot) -> None:
        """Start a server at a state of training, where most workers are, and bring all workers to it."""
        node, workers = self._group.busiest_node()
        here = str(ray.get_runtime_context().get_node_id())
        strategy = NodeAffinitySchedulingStrategy(node_id=node or here, soft=True)
        remote = ray.remote(ServerActor).options(
            num_cpus=0, max_concurrency=4, runtime_env=self._runtime_env, scheduling_strategy=strategy
        )
        self._server = remote.remote(
            config=self._config, net=self._spec.net, plan=self._spec.plan, start=start, workers=workers
        )
        self._location = ask_server(self._server.location.remote(), self._group.arrival_timeout_s)
        assert self._location is not None
        self._group.connect_all(self._server, self._location)

    def recover(self, start: Snapshot) -> None:
        """Start a new server in place of one that was lost, at an earlier state; it goes on from there."""
        end(self._server, self._location)
        self._group.drop_dead_nodes()
        self._start_server(start)

    def _ask(self, reply: Any) -> Any:
        return ask_server(reply, self._config.run.timeout_s)

    def run(self, until: int, tick: Callable[[], None]) -> int:
        """Train up to step `until` or until `stop`; call `tick` several times a second. Return the steps done.

        Lost workers are replaced meanwhile. Raises ServerLostError if the server dies, WorkerLostError if too few
        workers are left.
        """
        reply = self._server.run.remote(until)
        while not ray.wait([reply], timeout=TICK_S)[0]:
            self._replace_lost()
            tick()
        if time.monotonic() - self._mended > TICK_S:  # there are epochs that are over before the first look
            self._replace_lost()
        steps: int = self._ask(reply)
        return steps

    def _replace_lost(self) -> None:
        """Replace lost workers; take in more if the cluster has grown."""
        self._group.replace_lost()
        now = self._mended = time.monotonic()
        if self._wanted is not None and now - self._looked > GROW_S:
            self._looked = now
            self._group.resize(self._wanted())

    def stop(self) -> None:
        """Make `run` return after the step at hand."""
        self._server.stop.remote()

    def take_records(self) -> list[dict[str, Any]]:
        """See ParameterServer.take_records."""
        records: list[dict[str, Any]] = self._ask(self._server.take_records.remote())
        return records

    def take_notices(self) -> list[str]:
        """See WorkerGroup.take_notices."""
        return self._group.take_notices()

    def snapshot(self) -> Snapshot:
        """See ParameterServer.snapshot."""
        snapshot: Snapshot = self._ask(self._server.snapshot.remote())
        return snapshot

    def timings(self) -> dict[str, float]:
        """See ParameterServer.timings."""
        timings: dict[str, float] = self._ask(self._server.timings.remote())
        return timings

    def evaluate(self) -> dict[str, float]:
        """Return loss and accuracy over the held-out rows, each worker taking a share of their blocks.

        What a worker that dies meanwhile owes is computed by the others. Raises WorkerLostError if none is left and
        none comes in time.
        """
        if self.data.val is None:
            return {}
        rows = len(self.data.val)
        flat = self._ask(self._server.current_parameters.remote())
        found: list[tuple[float, int]] = []
        owed = [range(validation.block_count(rows))]
        arrival_timeout_s = self._group.arrival_timeout_s
        deadline = time.monotonic() + arrival_timeout_s
        while owed:
            owed, missing = [], owed
            for blocks in missing:
                owed += self._evaluate_blocks(ray.put(flat), blocks, found)
            if owed:
                self._replace_lost()
                time.sleep(TICK_S)
                if self._group.present:
                    deadline = time.monotonic() + arrival_timeout_s
                elif time.monotonic() > deadline:
                    raise WorkerLostError(
                        f"no worker is left in validation, and none came within {arrival_timeout_s:g} s"
                    )
        return validation.metrics(found, rows)

    def _evaluate_blocks(self, flat: Any, blocks: range, found: list[tuple[float, int]]) -> list[range]:
        """Add the results of `blocks` to `found`; return those that went missing with their workers."""
        members = self._group.present
        if not members:
            return [blocks]
        shares = [blocks[share.start : share.stop] for share in reduction.assign(len(members), len(blocks))]
        replies = [member.actor.evaluate.remote(flat, share) for member, share in zip(members, shares, strict=True)]
        missing = []
        for member, share, reply in zip(members, shares, replies, strict=True):
            try:
                found += answer(reply, member.name, self._config.run.timeout_s)
            except (WorkerLostError, ResourceError) as error:
                self._group.lose(member, str(error), " in validation")
                missing.append(share)
        return missing

    def close(self) -> None:
        """End the actors."""
        self._group.close()
        end(self._server, None)
        self._server = None
