"""Training on Ray: a parameter server, a group of workers, and the rows that they share."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from distsgd.cluster.actors import CALLS_NOT_RECORDED, Location, ServerActor
from distsgd.cluster.evaluation import BlockEvaluator, first_block_s
from distsgd.cluster.rows import SharedRows
from distsgd.cluster.rpc import TICK_S, Tick, await_server, end, no_tick
from distsgd.cluster.slicing import Slicing
from distsgd.cluster.worker_group import WorkerGroup
from distsgd.cluster.worker_spec import WorkerSpec
from distsgd.core.backend import Device
from distsgd.engine import validation
from distsgd.engine.sliced_server import SNAPSHOT_S
from distsgd.engine.snapshot import Snapshot
from distsgd.engine.spec import RunSpec
from distsgd.engine.validation import Evaluation
from distsgd.errors import ServerLostError

GROW_S = 5.0
"""Seconds between two checks of the cluster's size, if the number of workers follows it."""


class RayTrainer:
    """A parameter server and workers on the Ray that this process is connected to."""

    def __init__(
        self,
        spec: RunSpec,
        rows: SharedRows,
        *,
        workers: int,
        device: Device,
        runtime_env: dict[str, Any],
        stage: Callable[[str], None],
        wanted: Callable[[], int] | None = None,
    ) -> None:
        """Start all actors; `wanted` returns the number of workers that the cluster has room for, if it may change.

        `stage` is called with what is being done.
        """
        self._config, self._net, self._plan, self._runtime_env = spec.config, spec.net, spec.plan, runtime_env
        self._wanted, self._looked = wanted, time.monotonic()
        self._replaced = self._looked
        self._stopped = False
        self._held_out = 0 if rows.data.val is None else len(rows.data.val)
        self._server: Any = None
        self._location: Location | None = None
        self._loss: ServerLostError | None = None
        self._group = WorkerGroup(
            spec.config, workers=workers, spec=WorkerSpec.of(spec, device), rows=rows, runtime_env=runtime_env
        )
        self._slicing = Slicing(spec, self._group)
        timeout_s = spec.config.run.timeout_s
        first_s = first_block_s(timeout_s, spec.net.size, device)
        self._evaluator = BlockEvaluator(self._group, timeout_s, first_s=first_s)
        try:
            self._group.start(stage)
            stage("starting the parameter server and connecting the workers")
            self._start_server(spec.start)
        except BaseException:
            self.close()
            raise
        self.numerics = self._group.numerics
        self.nodes = self._group.workers.node_count()

    def _start_server(self, start: Snapshot) -> None:
        """Start a server at a state of training, where most workers are, and connect all workers to it."""
        node, workers = self._group.workers.busiest_node()
        here = str(ray.get_runtime_context().get_node_id())
        strategy = NodeAffinitySchedulingStrategy(node_id=node or here, soft=True)
        remote = ray.remote(ServerActor).options(
            num_cpus=0,
            max_concurrency=4,
            runtime_env=self._runtime_env,
            scheduling_strategy=strategy,
            **CALLS_NOT_RECORDED,
        )
        self._location = self._loss = None
        self._server = remote.remote(config=self._config, net=self._net, plan=self._plan, start=start, workers=workers)
        with self._noting_loss():
            self._location = await_server(self._server.location.remote(), self._group.start_timeout_s)
            self._group.connect_all(self._server, self._location)
            self._slicing.update(self._server, no_tick, settle_s=0.0)

    def recover(self, start: Snapshot) -> None:
        """Start a new server in place of a lost one; it resumes from the earlier state `start`."""
        end(self._server, self._location)
        self._group.drop_dead_nodes()
        self._start_server(start)

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

    def evaluate(self, tick: Tick, *, confusion: bool = False, weights: np.ndarray | None = None) -> Evaluation | None:
        """Return loss and accuracy over the held-out rows, and their confusion; None if `tick` has called `stop`.

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
        found = self._evaluator.evaluate(flat, blocks, poll, confusion=confusion)
        return None if found is None else validation.evaluation(found, self._net)

    def close(self) -> None:
        """End the actors."""
        self._group.close()
        if self._server is not None:
            end(self._server, None)
            self._server = None
