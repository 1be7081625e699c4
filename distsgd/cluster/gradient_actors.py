"""Workers and node aggregators, which compute gradients for the server, as Ray actors."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from distsgd.cluster.actors import DispatchingActor, Location, node_address, node_id
from distsgd.cluster.launching import Label, Labelled
from distsgd.cluster.ray_metrics import Reporter, WaitingShare
from distsgd.cluster.view_offer import ViewOffer, ViewServing
from distsgd.cluster.worker_spec import WorkerSpec
from distsgd.comm.aggregator import NodeAggregator
from distsgd.comm.deadlines import Deadlines
from distsgd.comm.endpoint import CONNECT_ERRORS, Endpoint, GradientComputer
from distsgd.comm.mesh_joining import MeshError
from distsgd.comm.ray_calls import join, pack
from distsgd.comm.tcp_acceptor import TcpAcceptor, TcpAddress
from distsgd.comm.tcp_endpoint import CONNECT_ERRORS as TCP_CONNECT_ERRORS
from distsgd.comm.tcp_endpoint import TcpEndpoint
from distsgd.comm.tcp_greeting import Introduction, Secret
from distsgd.comm.tcp_stream import Stream
from distsgd.config import Config
from distsgd.core import numerics
from distsgd.core.net import Net
from distsgd.core.reduction import PartialSum
from distsgd.data import Rows
from distsgd.engine.computing import worker_for
from distsgd.engine.slice_owner import Computer
from distsgd.engine.validation import BlockResult, Extras
from distsgd.system import faults


class GradientActor(Labelled, ABC):
    """An actor that computes gradients for the server: for one that it is connected to, or through Ray calls."""

    _endpoint: Endpoint | TcpEndpoint
    _serving: threading.Thread | None = None
    _views: ViewServing
    _view_acceptor: TcpAcceptor | None = None

    @abstractmethod
    def compute(self, step: int, flat: np.ndarray, shards: range) -> Sequence[PartialSum]:
        """See Worker.compute."""

    def compute_chunks(self, step: int, shards: range, *chunks: np.ndarray) -> list[Any]:
        """Compute with parameters that arrive in chunks, and return the sums in chunks; see comm.ray_calls."""
        return pack(self.compute(step, join(chunks), shards))

    def _serve(self, endpoint: Endpoint | TcpEndpoint, computer: GradientComputer) -> None:
        """Execute the tasks of a connection in a thread of its own."""
        self._endpoint = endpoint
        what = (computer, self._views.serve) if isinstance(endpoint, TcpEndpoint) else (computer,)
        self._serving = threading.Thread(target=endpoint.serve, args=what, name="endpoint", daemon=True)
        self._serving.start()

    def listen_view(self, secret: Secret, ports: range, parameters: int) -> TcpAddress | str:
        """Listen for the other members of views; return where, or the reason if that is not possible."""
        if self._view_acceptor is None:
            try:
                self._view_acceptor = TcpAcceptor(
                    node_address(),
                    ports,
                    node=node_id(),
                    parameters=parameters,
                    secret=secret,
                    on_join=self._views.accepted.add,
                )
            except OSError as error:
                return str(error)
        return self._view_acceptor.address

    @abstractmethod
    def join_view(self, offer: ViewOffer, member: int) -> str | None:
        """Connect to the other members of a view, which the server begins; return the reason if that fails."""

    def _disconnect(self) -> None:
        """Disconnect from the server or aggregator, if there is one, and wait for the current computation.

        The server may be hanging rather than dead, and buffers are for one computation at a time.
        """
        if self._serving is not None:
            self._endpoint.disconnect()
            self._serving.join()
            self._serving = None


def _connected(address: TcpAddress, secret: Secret, name: str, weight: int, parameters: int) -> Stream | str:
    """Return a connection to a server on another node, or the reason if there is none."""
    introduction = Introduction(name, socket.gethostname(), os.getpid(), weight)
    try:
        return TcpEndpoint.connect(address, secret, introduction, parameters)
    except TCP_CONNECT_ERRORS as error:
        return f"{address}: {error or type(error).__name__}"


def _joined(views: ViewServing, offer: ViewOffer, member: int, computer: Computer, buffers: np.ndarray) -> str | None:
    """Join a view; return the reason if that fails."""
    try:
        views.join(offer, member, computer, buffers)
    except MeshError as error:
        return str(error)
    return None


class AggregatorActor(DispatchingActor, GradientActor):
    """An aggregator as a Ray actor."""

    def __init__(self, *, label: Label, config: Config, net: Net, workers: int) -> None:
        # An aggregator without workers fails at once, so that the server reassigns its shards.
        deadlines = Deadlines.for_aggregator(config.run.timeout_s)
        super().__init__(
            label=label, config=config, net=net, workers=workers, deadlines=deadlines, arrival_timeout_s=0.0
        )
        self._aggregator = NodeAggregator(self._dispatcher, self._summation)
        self._spins = workers < self._threads
        self._views = ViewServing(("endpoint", 0), threads=self._threads, spin=self._spins)

    def connect_tcp(self, address: TcpAddress, secret: Secret, name: str, weight: int, transfer_s: float) -> str | None:
        """Serve the server on another node from now on, for `weight` workers; return the reason if that fails.

        The server waits up to `transfer_s` for a vector to be sent.
        """
        self._disconnect()
        buffers = self._dispatcher.buffers
        stream = _connected(address, secret, name, weight, buffers.shape[1])
        if isinstance(stream, str):
            return stream
        role, spins = ("endpoint", 0), self._spins
        endpoint = TcpEndpoint(stream, buffers, self._summation, spin=spins, role=role, timeout_s=transfer_s)
        self._serve(endpoint, self._aggregator)
        return None

    def join_view(self, offer: ViewOffer, member: int) -> str | None:
        """See GradientActor.join_view."""
        return _joined(self._views, offer, member, self._aggregator, self._dispatcher.buffers)

    def compute(self, step: int, flat: np.ndarray, shards: range) -> list[PartialSum]:
        """See NodeAggregator.compute."""
        return self._aggregator.compute(step, flat, shards)


class WorkerActor(GradientActor):
    """A worker as a Ray actor; `initialize` does the work of a constructor, so that its errors reach the driver."""

    def __init__(self, *, label: Label, number: int, restart: int) -> None:
        self._label, self._number, self._restart = label, number, restart
        self._views = ViewServing(("worker", number), threads=len(os.sched_getaffinity(0)), spin=True)

    def location(self) -> Location:
        """Return where it is."""
        return Location(node_id(), socket.gethostname(), os.getpid(), "")

    def initialize(self, spec: WorkerSpec, train: Rows, val: Rows | None) -> dict[str, str]:
        """Create the worker; return its numerics fingerprint."""
        faults.reached("worker", self._number, self._restart, "initializing")
        self._blas = numerics.pinned_blas(spec.blas_threads, spec.blas_kernel)
        self._blas.__enter__()
        self._worker = worker_for(
            spec.net,
            spec.bounds,
            sampler=spec.sampler,
            train=train,
            val=val,
            transform=spec.transform,
            device=spec.device,
        )
        self._reporter = Reporter(self._label, WaitingShare(lambda: self._worker.busy_s, time.monotonic))
        return numerics.fingerprint(spec.device)

    def connect(self, address: str) -> str | None:
        """Serve the server or aggregator at `address` on this node from now on; return the reason if that fails."""
        self._disconnect()
        try:
            endpoint = Endpoint.connect(address, self._number, self._worker.net.size)
        except CONNECT_ERRORS as error:
            return f"{type(error).__name__}: {error}"
        self._serve(endpoint, self._worker)
        return None

    def connect_tcp(self, address: TcpAddress, secret: Secret, name: str, weight: int, transfer_s: float) -> str | None:
        """Serve the server on another node from now on; return the reason if that fails. See AggregatorActor."""
        self._disconnect()
        worker = self._worker
        stream = _connected(address, secret, name, weight, worker.net.size)
        if isinstance(stream, str):
            return stream
        buffers, role = np.empty((2, worker.net.size), np.float32), ("worker", self._number)
        self._buffers = buffers
        endpoint = TcpEndpoint(stream, buffers, worker.summation, spin=True, role=role, timeout_s=transfer_s)
        self._serve(endpoint, worker)
        return None

    def join_view(self, offer: ViewOffer, member: int) -> str | None:
        """See GradientActor.join_view."""
        return _joined(self._views, offer, member, self._worker, self._buffers)

    def compute(self, step: int, flat: np.ndarray, shards: range) -> Sequence[PartialSum]:
        """See Worker.compute."""
        faults.reached("worker", self._number, step + 1, "asked")
        partials = self._worker.compute(step, flat, shards)
        faults.reached("worker", self._number, step + 1, "computed")
        return partials

    def evaluate(self, flat: np.ndarray, blocks: range, extras: Extras) -> list[BlockResult]:
        """See Worker.evaluate."""
        faults.reached("worker", self._number, sys.maxsize, "validating")
        return self._worker.evaluate(flat, blocks, extras)
