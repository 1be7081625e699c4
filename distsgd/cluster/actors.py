"""The parameter server as a Ray actor, and what it has in common with the aggregator."""

from __future__ import annotations

import os
import socket
from typing import Any, NamedTuple

import numpy as np
import ray

from distsgd.cluster.launching import Label, Labelled
from distsgd.cluster.ray_metrics import Reporter
from distsgd.cluster.view_offer import ViewOffer
from distsgd.comm.acceptor import Acceptor
from distsgd.comm.aggregator import NodeAggregator
from distsgd.comm.deadlines import Deadlines, transfer_s
from distsgd.comm.dispatcher import Dispatcher
from distsgd.comm.membership import InterruptedStepError, LostPeer
from distsgd.comm.mesh_joining import AcceptedMembers, MeshError
from distsgd.comm.messages import PeerSettings
from distsgd.comm.ray_calls import ParameterChunks, RayPeer
from distsgd.comm.tcp_acceptor import TcpAcceptor, TcpAddress
from distsgd.comm.tcp_greeting import Introduction, Secret
from distsgd.comm.tcp_peer import TcpPeer
from distsgd.comm.tcp_stream import Stream
from distsgd.config import Config
from distsgd.core import numerics
from distsgd.core.net import Net
from distsgd.engine.plan import Plan, summation
from distsgd.engine.slice_leader import SliceLeader
from distsgd.engine.sliced_server import SlicedServer, SlicesStatus
from distsgd.engine.snapshot import Snapshot
from distsgd.system import faults

REPORTED = {
    "distsgd_step": "step",
    "distsgd_train_loss": "train/loss",
    "distsgd_step_ms": "time/step_ms",
    "distsgd_samples_per_second": "time/samples_per_s",
}
"""What the server reports of a record."""

START_S = 60.0
"""Minimum start timeout of a process, in seconds; `run.timeout_s`, which is for steps, may be shorter."""


class Location(NamedTuple):
    """Where an actor is."""

    node: str
    """Ray's id of the node."""

    host: str
    pid: int
    address: str
    """The socket name that workers on its node connect to; empty for a worker."""


def node_id() -> str:
    """Return Ray's id of this node."""
    return str(ray.get_runtime_context().get_node_id())


def node_address() -> str:
    """Return the address by which this node is known to Ray; another interface may not be reachable for the others."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return next(str(node["NodeManagerAddress"]) for node in nodes if node["NodeID"] == node_id())


class DispatchingActor(Labelled):
    """A dispatcher and the acceptor that workers connect to: the common part of server and aggregator."""

    def __init__(
        self, *, label: Label, config: Config, net: Net, workers: int, deadlines: Deadlines, arrival_timeout_s: float
    ) -> None:
        self._label = label
        cores = len(os.sched_getaffinity(0))
        self._summation = summation(config)
        self._dispatcher = Dispatcher(
            net.size, deadlines=deadlines, arrival_timeout_s=arrival_timeout_s, spin=workers < cores
        )
        one_each = cores if workers == cores and config.run.blas_threads == 1 else 0
        self._acceptor = Acceptor(
            self._dispatcher, PeerSettings.of(net.size, self._summation, spin=workers <= cores), cores=one_each
        )
        self._threads = cores

    def location(self) -> Location:
        """Return where it is."""
        return Location(node_id(), socket.gethostname(), os.getpid(), self._acceptor.address)

    def size(self) -> int:
        """See Membership.size."""
        return self._dispatcher.members.size()

    def take_lost_peers(self) -> list[LostPeer]:
        """See Membership.take_lost_peers."""
        return self._dispatcher.members.take_lost_peers()

    def reweigh(self, name: str, weight: int) -> None:
        """See Membership.reweigh."""
        self._dispatcher.members.reweigh(name, weight)


class ServerActor(DispatchingActor):
    """The parameter server as a Ray actor; it answers other calls while `run` trains."""

    def __init__(self, *, label: Label, config: Config, net: Net, plan: Plan, start: Snapshot, workers: int) -> None:
        self._blas = numerics.pinned_blas(config.run.blas_threads, None)
        self._blas.__enter__()
        # If all workers are lost at once, replacements are starting; if there are none, the driver ends the run.
        super().__init__(
            label=label,
            config=config,
            net=net,
            workers=workers,
            deadlines=Deadlines.for_server(config.run.timeout_s),
            arrival_timeout_s=max(config.run.reply_timeout_s, START_S),
        )
        self._parameter_chunks = ParameterChunks(self._dispatcher.buffers)
        self._transfer_s = transfer_s(config.run.timeout_s, self._summation.dtype.itemsize * net.size)
        self._accepted = AcceptedMembers()
        self._offered: SliceLeader | None = None
        self._spins = workers < self._threads
        self._server = SlicedServer(
            config=config, net=net, plan=plan, start=start, link=self._dispatcher, threads=self._threads
        )
        self._reporter = Reporter(label, self._measured)

    def _measured(self) -> dict[str, float]:
        """Return what is reported to Ray: the newest record of the journal, by other names."""
        record = self._server.last_record or {}
        return {name: float(record[key]) for name, key in REPORTED.items() if key in record}

    def join(self, actor: Any, name: str, host: str, pid: int, weight: int) -> None:
        """Add a peer that is reached by Ray calls: a worker, or an aggregator that represents `weight` workers."""
        peer = RayPeer(
            actor,
            name,
            host,
            pid,
            weight=weight,
            parameter_chunks=self._parameter_chunks,
            summation=self._summation,
            timeout_s=self._transfer_s,
        )
        self._dispatcher.members.join(peer)

    def listen(self, secret: Secret, ports: range) -> TcpAddress | str:
        """Listen for processes of this run on other nodes; return where, or the reason if that is not possible."""
        try:
            self._tcp_acceptor = TcpAcceptor(
                node_address(),
                ports,
                node=node_id(),
                parameters=self._dispatcher.buffers.shape[1],
                secret=secret,
                on_join=self._join_by_tcp,
            )
        except OSError as error:
            return str(error)
        return self._tcp_acceptor.address

    def _join_by_tcp(self, stream: Stream, introduction: Introduction) -> None:
        if introduction.view:
            self._accepted.add(stream, introduction)
            return
        buffers, timeout_s = self._dispatcher.buffers, self._transfer_s
        peer = TcpPeer(stream, introduction, buffers, self._summation, timeout_s=timeout_s)
        self._dispatcher.members.join(peer)

    def join_view(self, offer: ViewOffer, member: int) -> str | None:
        """Connect to the other members of a view; return the reason if that fails."""
        try:
            mesh = offer.join(member, self._accepted, spin=self._spins)
        except MeshError as error:
            return str(error)
        if self._offered is not None:  # its view was not joined by all others
            self._offered.close()
        computer = NodeAggregator(self._dispatcher, self._summation)
        self._offered = SliceLeader(net=offer.net, plan=offer.plan, mesh=mesh, computer=computer, names=offer.names)
        return None

    def use_view(self) -> None:
        """Use the view that was joined last from the next step on."""
        leader, self._offered = self._offered, None
        if leader is not None:
            self._server.use_slices(leader)

    def slices(self) -> SlicesStatus:
        """See SlicedServer.slices."""
        return self._server.slices()

    def run(self, until: int) -> int:
        """See SlicedServer.run."""
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
