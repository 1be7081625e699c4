"""Nodes that own slices, in one process: real connections, and threads in place of processes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from plain_training import worker_of
from tcp_nodes import HOST, SECRET, TcpNode, listening

from distsgd.comm.aggregator import NodeAggregator
from distsgd.comm.mesh import Mesh
from distsgd.comm.mesh_joining import AcceptedMembers, join_mesh
from distsgd.comm.tcp_acceptor import TcpAcceptor
from distsgd.core.slices import View
from distsgd.engine.slice_follower import SliceFollower
from distsgd.engine.slice_leader import SliceLeader
from distsgd.engine.slice_owner import grain
from distsgd.engine.spec import RunSpec


@dataclass
class Member:
    """A node without the server: a worker, or an aggregator."""

    name: str
    computer: Any
    buffers: np.ndarray
    weight: int
    accepted: AcceptedMembers = field(default_factory=AcceptedMembers)
    timeout_s: float | None = None
    followers: dict[int, SliceFollower] = field(default_factory=dict)
    acceptor: TcpAcceptor | None = None

    def serve_view(self, view: int, step: int) -> None:
        self.followers.pop(view).serve(step)


@dataclass
class SlicedNodes:
    """A server's node and others; `offer` makes a view of them."""

    head: TcpNode
    head_workers: int
    members: list[Member]
    timeout_s: float
    wrap: Callable[[int, Mesh], Any] = lambda _, mesh: mesh
    """What to put between a member and its mesh."""

    def offer(self, number: int = 1) -> SliceLeader:
        """Connect all members to each other, and offer the view to the server."""
        spec, config = self.head.spec, self.head.spec.config
        weights = [self.head_workers, *(member.weight for member in self.members)]
        view = View.of(
            number,
            weights,
            num_shards=self.head.spec.plan.sampler.num_shards,
            arithmetic=self.head.spec.net.arithmetic,
            parameters=spec.net.size,
            grain=grain(config.optim),
        )
        names = ["the parameter server", *(member.name for member in self.members)]
        doors = [self.head_accepted, *(member.accepted for member in self.members)]
        addresses = [
            self.head_acceptor.address,
            *(member.acceptor.address for member in self.members if member.acceptor),
        ]

        timeouts = [self.timeout_s, *(member.timeout_s or self.timeout_s for member in self.members)]

        def join(member: int) -> Any:
            mesh = join_mesh(
                view,
                member,
                names=names,
                addresses=addresses,
                secret=SECRET,
                accepted=doors[member],
                parameters=spec.net.size,
                timeout_s=timeouts[member],
                spin=member % 2 == 0,
            )
            return self.wrap(member, mesh)

        with ThreadPoolExecutor(len(names)) as pool:
            meshes = self.meshes = list(pool.map(join, range(len(names))))
        for mesh, member in zip(meshes[1:], self.members, strict=True):
            member.followers[number] = SliceFollower(
                net=spec.net,
                plan=spec.plan,
                mesh=mesh,
                computer=member.computer,
                parameters=list(member.buffers),
                role=("endpoint", 0),
                threads=1,
            )
        leader = SliceLeader(
            net=spec.net,
            plan=spec.plan,
            mesh=meshes[0],
            computer=NodeAggregator(self.head.dispatcher, self.head.summation),
            names=names,
        )
        self.head.server.use_slices(leader)
        return leader

    def __post_init__(self) -> None:
        self.meshes: list[Any] = []
        self.head_accepted = AcceptedMembers()
        self.head_acceptor = _acceptor(self.head.spec, self.head_accepted)
        for member in self.members:
            member.acceptor = _acceptor(self.head.spec, member.accepted)

    def close(self) -> None:
        self.head_acceptor.close()
        for member in self.members:
            if member.acceptor is not None:
                member.acceptor.close()
            for follower in member.followers.values():  # of a view that did not begin
                follower.close()


def _acceptor(spec: RunSpec, accepted: AcceptedMembers) -> TcpAcceptor:
    return TcpAcceptor(HOST, range(0), node="anywhere", parameters=spec.net.size, secret=SECRET, on_join=accepted.add)


@contextlib.contextmanager
def sliced_nodes(spec: RunSpec, workers: list[int], *, timeout_s: float = 20.0) -> Iterator[SlicedNodes]:
    """Yield a server on the first node, with so many workers on each node, before any view is offered."""
    with contextlib.ExitStack() as stack:
        head = stack.enter_context(listening(spec, timeout_s=timeout_s))
        if workers[0]:
            head.start_local_workers(workers[0])
        members = []
        for number, count in enumerate(workers[1:]):
            if count == 1:
                computer, buffers = worker_of(spec), np.empty((2, spec.net.size), np.float32)
            else:
                node = stack.enter_context(listening(spec, timeout_s=timeout_s))
                node.start_local_workers(count)
                computer, buffers = NodeAggregator(node.dispatcher, head.summation), node.dispatcher.buffers
            member = Member(f"worker {number}", computer, buffers, count)
            head.start_worker(computer, count, buffers=buffers, serve_view=member.serve_view)
            members.append(member)
        nodes = SlicedNodes(head, workers[0], members, timeout_s)
        stack.callback(nodes.close)
        yield nodes
        _end_views(nodes)


def _end_views(nodes: SlicedNodes) -> None:
    """Let the members leave before their connections end."""
    leader = nodes.head.server._slices
    if leader is not None:
        leader.close()
