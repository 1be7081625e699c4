"""Training on Ray: a parameter server, its staff of workers, and the rows that they share."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from distsgd import reduction, validation
from distsgd.actors import Place, ServerActor
from distsgd.backend import Device
from distsgd.calls import answer, ask_server, end
from distsgd.errors import ResourceError, WorkerLostError
from distsgd.setup import Setup
from distsgd.staff import Staff
from distsgd.state import Snapshot

TICK_S = 0.2
"""Seconds between two looks at a training server."""

GROW_S = 5.0
"""Seconds between two looks at whether the cluster has grown, if the number of workers is what it has."""


class RayTrainer:
    """A parameter server and workers on the Ray that this process is connected to."""

    def __init__(
        self,
        setup: Setup,
        *,
        workers: int,
        device: Device,
        runtime_env: dict[str, Any],
        wanted: Callable[[], int] | None = None,
    ) -> None:
        """Start all actors; `wanted` says how many workers the cluster has room for, if their number may change."""
        self._setup, self._config, self._runtime_env = setup, setup.config, runtime_env
        self._wanted, self._looked = wanted, time.monotonic()
        self._mended = self._looked
        data = setup.data
        # From here on this process, too, reads the node's one copy of the rows.
        train, val = ray.put(data.train), None if data.val is None else ray.put(data.val)
        self.data = dataclasses.replace(data, train=ray.get(train), val=None if val is None else ray.get(val))
        rows = {"sampler": setup.plan.sampler, "train": train, "val": val, "transform": data.transform}
        self._server: Any = None
        self._place: Place | None = None
        self._staff = Staff(
            setup.config, setup.net, workers=workers, device=device, runtime_env=runtime_env, setup=rows
        )
        try:
            self._staff.start()
            self._start_server(setup.start)
        except BaseException:
            self.close()
            raise
        self.numerics = self._staff.numerics

    def _start_server(self, start: Snapshot) -> None:
        """Start a server at a state of training, where most workers are, and bring all workers to it."""
        node, workers = self._staff.busiest_node()
        here = str(ray.get_runtime_context().get_node_id())
        strategy = NodeAffinitySchedulingStrategy(node_id=node or here, soft=True)
        remote = ray.remote(ServerActor).options(
            num_cpus=0, max_concurrency=4, runtime_env=self._runtime_env, scheduling_strategy=strategy
        )
        self._server = remote.remote(
            config=self._config, net=self._setup.net, plan=self._setup.plan, start=start, workers=workers
        )
        self._place = ask_server(self._server.place.remote(), self._staff.patience_s)
        assert self._place is not None
        self._staff.seat(self._server, self._place)

    def recover(self, start: Snapshot) -> None:
        """Start a new server in place of one that was lost, at an earlier state; it goes on from there."""
        end(self._server, self._place)
        self._staff.miss_nodes()
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
            self._mend()
            tick()
        if time.monotonic() - self._mended > TICK_S:  # there are epochs that are over before the first look
            self._mend()
        steps: int = self._ask(reply)
        return steps

    def _mend(self) -> None:
        """Replace lost workers; take in more if the cluster has grown."""
        self._staff.mend()
        now = self._mended = time.monotonic()
        if self._wanted is not None and now - self._looked > GROW_S:
            self._looked = now
            self._staff.resize(self._wanted())

    def stop(self) -> None:
        """Make `run` return after the step at hand."""
        self._server.stop.remote()

    def take_records(self) -> list[dict[str, Any]]:
        """See ParameterServer.take_records."""
        records: list[dict[str, Any]] = self._ask(self._server.take_records.remote())
        return records

    def take_notices(self) -> list[str]:
        """See Staff.take_notices."""
        return self._staff.take_notices()

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
        rows = len(self.data.val.y)
        flat = self._ask(self._server.current_parameters.remote())
        found: list[tuple[float, int]] = []
        owed = [range(validation.block_count(rows))]
        patience_s = self._staff.patience_s
        deadline = time.monotonic() + patience_s
        while owed:
            owed, missing = [], owed
            for blocks in missing:
                owed += self._evaluate_blocks(ray.put(flat), blocks, found)
            if owed:
                self._mend()
                time.sleep(TICK_S)
                if self._staff.present:
                    deadline = time.monotonic() + patience_s
                elif time.monotonic() > deadline:
                    raise WorkerLostError(f"no worker is left in validation, and none came within {patience_s:g} s")
        return validation.metrics(found, rows)

    def _evaluate_blocks(self, flat: Any, blocks: range, found: list[tuple[float, int]]) -> list[range]:
        """Add the results of `blocks` to `found`; return those that went missing with their workers."""
        members = self._staff.present
        if not members:
            return [blocks]
        shares = [blocks[share.start : share.stop] for share in reduction.assign(len(members), len(blocks))]
        replies = [member.actor.evaluate.remote(flat, share) for member, share in zip(members, shares, strict=True)]
        missing = []
        for member, share, reply in zip(members, shares, replies, strict=True):
            try:
                found += answer(reply, member.name, self._config.run.timeout_s)
            except (WorkerLostError, ResourceError) as error:
                self._staff.lose(member, str(error), " in validation")
                missing.append(share)
        return missing

    def close(self) -> None:
        """End the actors."""
        self._staff.close()
        end(self._server, None)
        self._server = None
