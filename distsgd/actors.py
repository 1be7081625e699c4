"""The plain classes as Ray actors; trainer.py and staff.py start them."""

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

from distsgd import faults, numerics
from distsgd.backend import Device
from distsgd.config import Config
from distsgd.links.crew import Crew, InterruptedStepError, Loss
from distsgd.links.lobby import Lobby
from distsgd.links.ray_calls import Courier, RayPeer, join, pack
from distsgd.links.shared_memory import REFUSALS, Seat, Welcome
from distsgd.model import Net
from distsgd.reduction import Partial
from distsgd.relay import Relay
from distsgd.server import ParameterServer
from distsgd.state import Plan, Snapshot
from distsgd.worker import Worker

START_S = 60.0
"""Seconds in which a new process has to be there, however short run.timeout_s is: that is for steps."""


class Place(NamedTuple):
    """Where an actor is."""

    node: str
    """Ray's id of the node."""

    host: str
    pid: int
    address: str
    """Where workers of that node find it; empty for a worker."""


def _node() -> str:
    return str(ray.get_runtime_context().get_node_id())


class _Host:
    """A crew and the lobby that its workers come in by: what a server and a relay have in common."""

    def __init__(self, *, config: Config, net: Net, workers: int, timeout_s: float, patience_s: float) -> None:
        cores = len(os.sched_getaffinity(0))
        num_shards = config.train.num_shards
        self._crew = Crew(net.size, timeout_s=timeout_s, patience_s=patience_s, spin=workers < cores)
        one_each = cores if workers == cores and config.run.blas_threads == 1 else 0
        self._lobby = Lobby(self._crew, Welcome(net.size, num_shards, spin=workers <= cores), cores=one_each)
        self._threads = cores

    def place(self) -> Place:
        """Return where it is."""
        return Place(_node(), socket.gethostname(), os.getpid(), self._lobby.address)

    def size(self) -> int:
        """See Crew.size."""
        return self._crew.size()

    def take_losses(self) -> list[Loss]:
        """See Crew.take_losses."""
        return self._crew.take_losses()

    def reweigh(self, name: str, weight: int) -> None:
        """See Crew.reweigh."""
        self._crew.reweigh(name, weight)


class ServerActor(_Host):
    """The parameter server as a Ray actor; it answers other calls while `run` trains."""

    def __init__(self, *, config: Config, net: Net, plan: Plan, start: Snapshot, workers: int) -> None:
        self._blas = numerics.pinned_blas(config.run.blas_threads, None)
        self._blas.__enter__()
        # When all workers are lost at once, new ones are on their way; if there will be none, the driver says so.
        patience_s = max(config.run.timeout_s, START_S)
        super().__init__(config=config, net=net, workers=workers, timeout_s=config.run.timeout_s, patience_s=patience_s)
        self._courier, self._num_shards = Courier(self._crew.buffers), config.train.num_shards
        self._server = ParameterServer(
            config=config, net=net, plan=plan, start=start, link=self._crew, threads=self._threads
        )

    def join(self, actor: Any, name: str, host: str, pid: int, weight: int) -> None:
        """Take in a worker, or a relay for `weight` workers, that is reached by Ray calls."""
        peer = RayPeer(actor, name, host, pid, weight=weight, courier=self._courier, num_shards=self._num_shards)
        self._crew.join(peer)

    def run(self, until: int) -> int:
        """See ParameterServer.run."""
        try:
            return self._server.run(until)
        except InterruptedStepError:
            return self._server.step

    def stop(self) -> None:
        """See ParameterServer.stop."""
        self._server.stop()
        self._crew.interrupt()

    def take_records(self) -> list[dict[str, Any]]:
        """See ParameterServer.take_records."""
        return self._server.take_records()

    def snapshot(self) -> Snapshot:
        """See ParameterServer.snapshot."""
        return self._server.snapshot()

    def current_parameters(self) -> np.ndarray:
        """See ParameterServer.current_parameters."""
        if faults.ARMED:
            faults.reached("server", 0, self._server.step, "validating")
        return self._server.current_parameters()

    def timings(self) -> dict[str, float]:
        """See ParameterServer.timings."""
        return self._server.timings()


class Computing(ABC):
    """An actor that computes gradients by Ray calls."""

    @abstractmethod
    def compute(self, step: int, flat: np.ndarray, shards: range) -> Sequence[Partial]:
        """See Worker.compute."""

    def compute_pieces(self, step: int, shards: range, *pieces: np.ndarray) -> list[Any]:
        """Compute with parameters that come in pieces, and return the partials in pieces; see links.ray_calls."""
        return pack(self.compute(step, join(pieces), shards))


class RelayActor(_Host, Computing):
    """A relay as a Ray actor."""

    def __init__(self, *, config: Config, net: Net, workers: int) -> None:
        # A worker that hangs is given up while the server has patience yet with the relay. Without workers a relay is
        # of no use: the server gives its shards to others, at once.
        super().__init__(config=config, net=net, workers=workers, timeout_s=config.run.timeout_s / 2, patience_s=0.0)
        self._relay = Relay(self._crew, config.train.num_shards)

    def compute(self, step: int, flat: np.ndarray, shards: range) -> list[Partial]:
        """See Relay.compute."""
        return self._relay.compute(step, flat, shards)


class WorkerActor(Computing):
    """A worker as a Ray actor; `setup` rather than the constructor does the work, so that its errors come back."""

    def setup(
        self, *, number: int, blas_threads: int, blas_kernel: str | None, device: Device, **keywords: Any
    ) -> tuple[Place, dict[str, str]]:
        """Make the worker; return where it is, and the fingerprint of its arithmetic."""
        self._number = number
        self._serving: threading.Thread | None = None
        self._blas = numerics.pinned_blas(blas_threads, blas_kernel)
        self._blas.__enter__()
        self._worker = Worker(device=device, **keywords)
        return Place(_node(), socket.gethostname(), os.getpid(), ""), numerics.fingerprint(device)

    def sit_down(self, address: str) -> str | None:
        """Serve the server or relay at `address` on this node from now on; return what is in the way, if it is."""
        self._leave_seat()
        try:
            self._seat = Seat.take(address, self._number, self._worker.net.size)
        except REFUSALS as error:
            return f"{type(error).__name__}: {error}"
        self._serving = threading.Thread(target=self._seat.serve, args=(self._worker,), name="seat", daemon=True)
        self._serving.start()
        return None

    def _leave_seat(self) -> None:
        """Return when the worker computes no more for the server or relay that it sat at, if there was one.

        That one may hang rather than be dead, and the worker's buffers are for one computation at a time.
        """
        if self._serving is not None:
            self._seat.leave()
            self._serving.join()
            self._serving = None

    def compute(self, step: int, flat: np.ndarray, shards: range) -> Sequence[Partial]:
        """See Worker.compute."""
        if not faults.ARMED:
            return self._worker.compute(step, flat, shards)
        faults.reached("worker", self._number, step + 1, "asked")
        partials = self._worker.compute(step, flat, shards)
        faults.reached("worker", self._number, step + 1, "computed")
        return partials

    def evaluate(self, flat: np.ndarray, blocks: range) -> list[tuple[float, int]]:
        """See Worker.evaluate."""
        if faults.ARMED:
            faults.reached("worker", self._number, sys.maxsize, "validating")
        return self._worker.evaluate(flat, blocks)
