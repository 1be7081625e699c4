"""The plain classes of `engine` and `comm` as Ray actors."""

from __future__ import annotations

import os
import socket
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import ray

from distsgd.cluster.worker_spec import WorkerSpec
from distsgd.comm.acceptor import Acceptor
from distsgd.comm.aggregator import NodeAggregator
from distsgd.comm.dispatcher import Dispatcher
from distsgd.comm.endpoint import CONNECT_ERRORS, Endpoint
from distsgd.comm.membership import InterruptedStepError, LostPeer
from distsgd.comm.messages import PeerSettings
from distsgd.comm.ray_calls import ParameterChunks, RayPeer, join, pack
from distsgd.config import Config
from distsgd.core import numerics
from distsgd.core.net import Net
from distsgd.core.reduction import PartialSum
from distsgd.data import Rows
from distsgd.engine.plan import Plan
from distsgd.engine.server import ParameterServer
from distsgd.engine.snapshot import Snapshot
from distsgd.engine.validation import BlockResult
from distsgd.engine.worker import Worker
from distsgd.system import faults

START_S = 60.0
"""Minimum start timeout of a process, in seconds; `run.timeout_s`, which is for steps, may be shorter."""


CALLS_NOT_RECORDED = {"enable_task_events": False}
"""Options for all actors: Ray would record every call of theirs, which took 60 MiB of the head node in an hour."""


class Location(NamedTuple):
    """Where an actor is."""

    node: str
    """Ray's id of the node."""

    host: str
    pid: int
    address: str
    """The socket name that workers on its node connect to; empty for a worker."""


def _node() -> str:
    return str(ray.get_runtime_context().get_node_id())


class _DispatchingActor:
    """A dispatcher and the acceptor that workers connect to: the common part of server and aggregator."""

    def __init__(self, *, config: Config, net: Net, workers: int, timeout_s: float, arrival_timeout_s: float) -> None:
        cores = len(os.sched_getaffinity(0))
        num_shards = config.train.num_shards
        self._dispatcher = Dispatcher(
            net.size, timeout_s=timeout_s, arrival_timeout_s=arrival_timeout_s, spin=workers < cores
        )
        one_each = cores if workers == cores and config.run.blas_threads == 1 else 0
        self._acceptor = Acceptor(
            self._dispatcher, PeerSettings(net.size, num_shards, spin=workers <= cores), cores=one_each
        )
        self._threads = cores

    def location(self) -> Location:
        """Return where it is."""
        return Location(_node(), socket.gethostname(), os.getpid(), self._acceptor.address)

    def size(self) -> int:
        """See Membership.size."""
        return self._dispatcher.members.size()

    def take_lost_peers(self) -> list[LostPeer]:
        """See Membership.take_lost_peers."""
        return self._dispatcher.members.take_lost_peers()

    def reweigh(self, name: str, weight: int) -> None:
        """See Membership.reweigh."""
        self._dispatcher.members.reweigh(name, weight)


class ServerActor(_DispatchingActor):
    """The parameter server as a Ray actor; it answers other calls while `run` trains."""

    def __init__(self, *, config: Config, net: Net, plan: Plan, start: Snapshot, workers: int) -> None:
        self._blas = numerics.pinned_blas(config.run.blas_threads, None)
        self._blas.__enter__()
        # If all workers are lost at once, replacements are starting; if there are none, the driver ends the run.
        arrival_timeout_s = max(config.run.timeout_s, START_S)
        super().__init__(
            config=config, net=net, workers=workers, timeout_s=config.run.timeout_s, arrival_timeout_s=arrival_timeout_s
        )
        self._parameter_chunks, self._num_shards = ParameterChunks(self._dispatcher.buffers), config.train.num_shards
        self._timeout_s = config.run.timeout_s
        self._server = ParameterServer(
            config=config, net=net, plan=plan, start=start, link=self._dispatcher, threads=self._threads
        )

    def join(self, actor: Any, name: str, host: str, pid: int, weight: int) -> None:
        """Add a peer that is reached by Ray calls: a worker, or an aggregator that represents `weight` workers."""
        peer = RayPeer(
            actor,
            name,
            host,
            pid,
            weight=weight,
            parameter_chunks=self._parameter_chunks,
            num_shards=self._num_shards,
            timeout_s=self._timeout_s,
        )
        self._dispatcher.members.join(peer)

    def run(self, until: int) -> int:
        """See ParameterServer.run."""
        try:
            return self._server.run(until)
        except InterruptedStepError:
            return self._server.step

    def stop(self) -> None:
        """See ParameterServer.stop."""
        self._server.stop()
        self._dispatcher.members.interrupt()

    def take_records(self) -> list[dict[str, Any]]:
        """See ParameterServer.take_records."""
        return self._server.take_records()

    def snapshot(self) -> Snapshot:
        """See ParameterServer.snapshot."""
        return self._server.snapshot()

    def current_parameters(self) -> np.ndarray:
        """See ParameterServer.current_parameters."""
        faults.reached("server", 0, self._server.step, "validating")
        return self._server.current_parameters()

    def timings(self) -> dict[str, float]:
        """See ParameterServer.timings."""
        return self._server.timings()


class GradientActor(ABC):
    """An actor that computes gradients through Ray calls."""

    @abstractmethod
    def compute(self, step: int, flat: np.ndarray, shards: range) -> Sequence[PartialSum]:
        """See Worker.compute."""

    def compute_chunks(self, step: int, shards: range, *chunks: np.ndarray) -> list[Any]:
        """Compute with parameters that arrive in chunks, and return the sums in chunks; see comm.ray_calls."""
        return pack(self.compute(step, join(chunks), shards))


class AggregatorActor(_DispatchingActor, GradientActor):
    """An aggregator as a Ray actor."""

    def __init__(self, *, config: Config, net: Net, workers: int) -> None:
        # A worker that hangs has to time out before its aggregator does. An aggregator without workers fails at once,
        # so that the server reassigns its shards.
        super().__init__(
            config=config, net=net, workers=workers, timeout_s=config.run.timeout_s / 2, arrival_timeout_s=0.0
        )
        self._aggregator = NodeAggregator(self._dispatcher, config.train.num_shards)

    def compute(self, step: int, flat: np.ndarray, shards: range) -> list[PartialSum]:
        """See NodeAggregator.compute."""
        return self._aggregator.compute(step, flat, shards)


class WorkerActor(GradientActor):
    """A worker as a Ray actor; `initialize` does the work of a constructor, so that its errors reach the driver."""

    def __init__(self, number: int, restart: int) -> None:
        self._number, self._restart = number, restart
        self._serving: threading.Thread | None = None

    def location(self) -> Location:
        """Return where it is."""
        return Location(_node(), socket.gethostname(), os.getpid(), "")

    def initialize(self, spec: WorkerSpec, train: Rows, val: Rows | None) -> dict[str, str]:
        """Create the worker; return its numerics fingerprint."""
        faults.reached("worker", self._number, self._restart, "initializing")
        self._blas = numerics.pinned_blas(spec.blas_threads, spec.blas_kernel)
        self._blas.__enter__()
        self._worker = Worker(
            net=spec.net, sampler=spec.sampler, train=train, val=val, transform=spec.transform, device=spec.device
        )
        return numerics.fingerprint(spec.device)

    def connect(self, address: str) -> str | None:
        """Serve the server or aggregator at `address` on this node from now on; return the reason if that fails."""
        self._disconnect()
        try:
            self._endpoint = Endpoint.connect(address, self._number, self._worker.net.size)
        except CONNECT_ERRORS as error:
            return f"{type(error).__name__}: {error}"
        self._serving = threading.Thread(
            target=self._endpoint.serve, args=(self._worker,), name="endpoint", daemon=True
        )
        self._serving.start()
        return None

    def _disconnect(self) -> None:
        """Disconnect from the server or aggregator, if there is one, and wait for the current computation.

        The server may be hanging rather than dead, and the worker's buffers are for one computation at a time.
        """
        if self._serving is not None:
            self._endpoint.disconnect()
            self._serving.join()
            self._serving = None

    def compute(self, step: int, flat: np.ndarray, shards: range) -> Sequence[PartialSum]:
        """See Worker.compute."""
        faults.reached("worker", self._number, step + 1, "asked")
        partials = self._worker.compute(step, flat, shards)
        faults.reached("worker", self._number, step + 1, "computed")
        return partials

    def evaluate(self, flat: np.ndarray, blocks: range, confusion: bool) -> list[BlockResult]:
        """See Worker.evaluate."""
        faults.reached("worker", self._number, sys.maxsize, "validating")
        return self._worker.evaluate(flat, blocks, confusion=confusion)
