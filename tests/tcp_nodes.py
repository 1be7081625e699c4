"""Nodes in one process: a server, and workers and aggregators that reach it as they would from other nodes, in threads.

They use real sockets and real shared memory; only the processes are missing.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from plain_training import some_spec, worker_of
from runs import eventually

from distsgd.comm.acceptor import Acceptor
from distsgd.comm.aggregator import NodeAggregator
from distsgd.comm.deadlines import Deadlines
from distsgd.comm.dispatcher import Dispatcher
from distsgd.comm.endpoint import Endpoint
from distsgd.comm.messages import PeerSettings
from distsgd.comm.tcp_acceptor import TcpAcceptor
from distsgd.comm.tcp_endpoint import TcpEndpoint
from distsgd.comm.tcp_greeting import Introduction, Secret
from distsgd.comm.tcp_peer import TcpPeer
from distsgd.comm.tcp_stream import Stream
from distsgd.core import numerics
from distsgd.core.reduction import Summation
from distsgd.engine.plan import summation
from distsgd.engine.sliced_server import SlicedServer
from distsgd.engine.spec import RunSpec

HOST = "127.0.0.1"
SECRET = Secret.new()


@dataclass
class TcpNode:
    """A server that listens for others."""

    spec: RunSpec
    dispatcher: Dispatcher
    acceptor: TcpAcceptor
    server: SlicedServer
    timeout_s: float
    endpoints: list[TcpEndpoint] = field(default_factory=list)
    local_endpoints: list[Endpoint] = field(default_factory=list)
    threads: list[threading.Thread] = field(default_factory=list)

    @property
    def summation(self) -> Summation:
        return summation(self.spec.config)

    def start_worker(
        self,
        computer: Any = None,
        weight: int = 1,
        *,
        buffers: np.ndarray | None = None,
        serve_view: Callable[[int, int], None] | None = None,
        wait: bool = True,
    ) -> TcpEndpoint:
        """Connect a worker, or what else computes, and return when the server knows it unless `wait` is false."""
        number, size = len(self.endpoints), self.dispatcher.members.size()
        introduction = Introduction(f"worker {number}", "there", 1000 + number, weight)
        stream = TcpEndpoint.connect(self.acceptor.address, SECRET, introduction, self.spec.net.size)
        buffers = np.empty((2, self.spec.net.size), np.float32) if buffers is None else buffers
        role, spin = ("worker", number), number % 2 == 0
        endpoint = TcpEndpoint(stream, buffers, self.summation, spin=spin, role=role, timeout_s=self.timeout_s)
        self._serve(endpoint, worker_of(self.spec) if computer is None else computer, serve_view)
        self.endpoints.append(endpoint)
        assert not wait or eventually(lambda: self.dispatcher.members.size() == size + weight, 30)
        return endpoint

    def start_local_workers(self, count: int) -> None:
        """Connect workers of this node, through shared memory."""
        settings = PeerSettings.of(self.spec.net.size, self.summation, spin=False)
        size, acceptor = self.dispatcher.members.size(), Acceptor(self.dispatcher, settings)
        for number in range(count):
            endpoint = Endpoint.connect(acceptor.address, 100 + number, self.spec.net.size)
            self._serve(endpoint, worker_of(self.spec))
            self.local_endpoints.append(endpoint)
        assert eventually(lambda: self.dispatcher.members.size() == size + count, 30)
        acceptor.close()

    def _serve(self, endpoint: Endpoint | TcpEndpoint, *what: Any) -> None:
        self.threads.append(threading.Thread(target=endpoint.serve, args=what))
        self.threads[-1].start()

    def end(self) -> None:
        self.acceptor.close()
        self.dispatcher.close()
        for thread in self.threads:
            thread.join(20)
            assert not thread.is_alive()

    def lost(self) -> list[tuple[str, str]]:
        """Return the names of the peers that were lost, and how."""
        return [(lost.name, lost.problem) for lost in self.dispatcher.members.take_lost_peers()]


@contextlib.contextmanager
def listening(spec: RunSpec | None = None, *, timeout_s: float = 20.0) -> Iterator[TcpNode]:
    """Yield a server that listens; afterwards none of its threads is left."""
    spec = some_spec() if spec is None else spec
    config = spec.config
    dispatcher = Dispatcher(spec.net.size, deadlines=Deadlines.fixed(timeout_s), arrival_timeout_s=10.0, spin=False)

    def join(stream: Stream, introduction: Introduction) -> None:
        buffers, added = dispatcher.buffers, summation(config)
        dispatcher.members.join(TcpPeer(stream, introduction, buffers, added, timeout_s=timeout_s))

    acceptor = TcpAcceptor(HOST, range(0), node="the head", parameters=spec.net.size, secret=SECRET, on_join=join)
    server = SlicedServer(config=config, net=spec.net, plan=spec.plan, start=spec.start, link=dispatcher)
    node = TcpNode(spec, dispatcher, acceptor, server, timeout_s)
    try:
        with numerics.pinned_blas(1, None):
            yield node
    finally:
        node.end()


@contextlib.contextmanager
def nodes_of(spec: RunSpec, workers: list[int]) -> Iterator[SlicedServer]:
    """Yield a server on the first node, with so many workers on each node, connected as a run connects them."""
    with contextlib.ExitStack() as stack:
        head = stack.enter_context(listening(spec))
        head.start_local_workers(workers[0])
        for count in workers[1:]:
            if count == 1:
                head.start_worker()
            else:
                node = stack.enter_context(listening(spec))
                node.start_local_workers(count)
                head.start_worker(NodeAggregator(node.dispatcher, head.summation), count)
        yield head.server
