"""Training on Ray: a parameter server, a group of workers, and the rows that they share."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from distsgd.cluster.actors import Location, ServerActor
from distsgd.cluster.evaluation import BlockEvaluator, first_block_s
from distsgd.cluster.launching import Launcher
from distsgd.cluster.rows import SharedRows
from distsgd.cluster.rpc import SERVER, TICK_S, Tick, alive_nodes, await_server, end, no_tick
from distsgd.cluster.slicing import Slicing
from distsgd.cluster.worker_group import WorkerGroup
from distsgd.cluster.worker_spec import WorkerSpec
from distsgd.core.backend import Device
from distsgd.engine import validation
from distsgd.engine.sliced_server import SNAPSHOT_S
from distsgd.engine.snapshot import Snapshot
from distsgd.engine.spec import RunSpec
from distsgd.engine.validation import NO_EXTRAS, Evaluation, Extras
from distsgd.errors import ServerLostError

GROW_S = 5.0
"""Seconds between two checks of the cluster's size, if the number of workers follows it."""

STARTING = threading.Lock()
"""Held while workers start: of two runs in threads of a process each could have half of the CPUs, and wait for more."""


class RayTrainer:
    """A parameter server and workers on the Ray that this process is connected to."""

    def __init__(
        self,
        spec: RunSpec,
        rows: SharedRows,
        *,
        workers: int,
        device: Device,
        launcher: Launcher,
        stage: Callable[[str], None],
        wanted: Callable[[], int] | None = None,
    ) -> None:
        """Start all actors; `wanted` returns the number of workers that the cluster has room for, if it may change.

        `stage` is called with what is being done.
        """
        self._config, self._net, self._plan, self._launcher = spec.config, spec.net, spec.plan, launcher
        self._wanted, self._looked = wanted, time.monotonic()
        self._replaced = self._looked
        self._stopped = False
        self._held_out = 0 if rows.data.val is None else len(rows.data.val)
        self._server: Any = None
        self._location: Location | None = None
        self._loss: ServerLostError | None = None
        self._group = WorkerGroup(
            spec.config, workers=workers, spec=WorkerSpec.of(spec, device), rows=rows, launcher=launcher
        )
        self._slicing = Slicing(spec, self._group)
        timeout_s = spec.config.run.timeout_s
        first_s = first_block_s(timeout_s, spec.net.size, device)
        self._evaluator = BlockEvaluator(self._group, timeout_s, first_s=first_s)
        try:
            self._start_actors(spec.start, workers, stage)
        except BaseException:
            self.close()
            raise
        self.numerics = self._group.numerics
        self.nodes = self._group.workers.node_count()

    def _start_actors(self, start: Snapshot, workers: int, stage: Callable[[str], None]) -> None:
        """Start all actors and connect them; a server that is lost meanwhile is replaced once."""
        expected: tuple[str | None, int] | None = None
        with STARTING:
            self._group.start()
            nodes = alive_nodes()
            if len(nodes) == 1:  # processes take a second to start: the server's does so beside the workers'
                expected = next(iter(nodes)), workers
                self._launch_server(start, *expected)
            self._group.await_ready(stage)
        stage("starting the parameter server and connecting the workers")
        found = self._group.workers.busiest_node()
        if expected not in (None, found):  # nodes have joined, and have got workers
            end(self._server, self._location)
        if expected != found:
            self._launch_server(start, *found)
        try:
            self._connect_server()
        except ServerLostError as error:
            if not self._config.run.max_restarts:
                raise
            self._group.workers.note(f"{error}; a new one is started")
            self.recover(start)

    def _launch_server(self, start: Snapshot, node: str | None, workers: int) -> None:
        """Have a server started at a state of training, on a node with so many workers."""
        here = str(ray.get_runtime_context().get_node_id())
        strategy = NodeAffinitySchedulingStrategy(node_id=node or here, soft=True)
        self._location = self._loss = None
        self._server = self._launcher.start(
            ServerActor,
            SERVER,
            options={"num_cpus": 0, "max_concurrency": 4, "scheduling_strategy": strategy},
            config=self._config,
            net=self._net,
            plan=self._plan,
            start=start,
            workers=workers,
        )

    def _connect_server(self) -> None:
        """Connect all workers to the server that was launched last."""
        with self._noting_loss():
            self._location = await_server(self._server.location.remote(), self._group.start_timeout_s)
            self._group.connect_all(self._server, self._location)
            self._slicing.update(self._server, no_tick, settle_s=0.0)

    def recover(self, start: Snapshot) -> None:
        """Start a new server in place of a lost one; it resumes from the earlier state `start`."""
        end(self._server, self._location)
        self._group.drop_dead_nodes()
        self._launch_server(start, *self._group.workers.busiest_node())  # where most workers are
        self._connect_server()

    @contextlib.contextmanager
    def _noting_loss(self) -> Iterator[None]:
        """Remember that the server was lost: whoever asks it next need not wait until it is known again."""
        if self._loss is not None:
            raise self._loss
        try:
            yield
        except ServerLostError as error:
            self._loss = error
            raise

    def _ask(self, method: str, more_s: float = 0.0) -> Any:
        """Return the server's reply to a call without arguments, which may take `more_s` seconds more than others."""
        with self._noting_loss():
            return await_server(getattr(self._server, method).remote(), self._config.run.reply_timeout_s + more_s)

    def run(self, until: int, tick: Tick) -> int:
        """Train up to step `until` or until `stop`; call `tick` several times a second. Return the steps done.

        Lost workers are replaced meanwhile. Raise ServerLostError if the server dies, WorkerLostError if too few
        workers are left.
        """
        reply = self._server.run.remote(until)
        try:
            while not ray.wait([reply], timeout=TICK_S)[0]:
                self._replace_lost(tick)
                with self._noting_loss():
                    self._slicing.update(self._server, tick)
                tick()
            if time.monotonic() - self._replaced > TICK_S:  # an epoch may be over before the first check
                self._replace_lost(tick)
        except ServerLostError:
            with contextlib.suppress(Exception):  # Ray prints an error that nobody asks for
                ray.get(reply, timeout=0)
            raise
        with self._noting_loss():
            steps: int = await_server(reply, self._config.run.reply_timeout_s)
        return steps

    def _replace_lost(self, tick: Tick) -> None:
        """Replace lost workers; add some if the cluster has grown."""
        with self._noting_loss():
            self._group.replace_lost(tick)
        now = self._replaced = time.monotonic()
        if self._wanted is not None and now - self._looked > GROW_S:
            self._looked = now
            self._group.resize(self._wanted())

    def stop(self) -> None:
        """Make `run` return after the current step, and `evaluate` at once."""
        self._stopped = True
        self._server.stop.remote()

    def take_records(self) -> list[dict[str, Any]]:
        """See ParameterServer.take_records."""
        records: list[dict[str, Any]] = self._ask("take_records")
        return records

    def take_notices(self) -> list[str]:
        """See Workers.take_notices."""
        return self._group.workers.take_notices()

    def snapshot(self) -> Snapshot:
        """See ParameterServer.snapshot."""
        snapshot: Snapshot = self._ask("snapshot", SNAPSHOT_S if self._slicing.has_view else 0.0)
        return snapshot

    def timings(self) -> dict[str, float]:
        """See ParameterServer.timings."""
        timings: dict[str, float] = self._ask("timings")
        return timings

    def evaluate(
        self, tick: Tick, extras: Extras = NO_EXTRAS, *, weights: np.ndarray | None = None
    ) -> Evaluation | None:
        """Return what the held-out rows give; None if `tick` has called `stop`.

        The weights are the last ones, or `weights` (P,). `tick` is called several times a second. The workers share the
        rows, also those of a worker that dies meanwhile.
        Raise WorkerLostError if too few workers are left.
        """
        if not self._held_out:
            return Evaluation()

        def poll() -> bool:
            self._replace_lost(tick)
            tick()
            return not self._stopped

        flat = ray.put(self._ask("current_parameters") if weights is None else weights)
        blocks = validation.block_count(self._held_out)
        found = self._evaluator.evaluate(flat, blocks, poll, extras)
        return None if found is None else validation.evaluation(found, self._net)

    def close(self) -> None:
        """End the actors."""
        self._group.close()
        if self._server is not None:
            end(self._server, None)
            self._server = None
