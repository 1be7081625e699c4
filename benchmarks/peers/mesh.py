"""distsgd's own exchange of a step with slices, without arithmetic: what its connections add to plain sockets.

One process for each node: RANK, WORLD_SIZE and NODE_ADDRESSES, separated by commas, are in the environment. Every node
has one subtree of shards, so the bytes are those of `benchmarks.peers.sockets`.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from benchmarks.peers.common import StepClock, Task, main
from distsgd.comm.mesh import Mesh
from distsgd.comm.mesh_joining import AcceptedMembers, join_mesh
from distsgd.comm.tcp_acceptor import TcpAcceptor, TcpAddress
from distsgd.comm.tcp_greeting import Secret
from distsgd.core.reduction import PartialSum
from distsgd.core.slices import SlicesBrokenError, View

PORT = 29700

SECRET = Secret("benchmark", bytes(32))
"""Whoever could connect to these namespaces could do anything anyway."""

SPINS_UP_TO = 2
"""Nodes up to which there is a core for each, so that waiting processes may poll."""


def connect(rank: int, addresses: list[str], parameters: int) -> Mesh:
    """Return this node's connections to all others, which are made in the same moment."""
    view = View.of(1, [1] * len(addresses), num_shards=len(addresses), parameters=parameters)
    accepted = AcceptedMembers()
    acceptor = TcpAcceptor(
        addresses[rank],
        range(PORT, PORT + 1),
        node=str(rank),
        parameters=parameters,
        secret=SECRET,
        on_join=accepted.add,
    )
    try:
        return join_mesh(
            view,
            rank,
            names=[f"node {number}" for number in range(len(addresses))],
            addresses=[TcpAddress(host, PORT, str(number), tls=False) for number, host in enumerate(addresses)],
            secret=SECRET,
            accepted=accepted,
            parameters=parameters,
            timeout_s=60.0,
            spin=len(addresses) <= SPINS_UP_TO,
        )
    finally:
        acceptor.close()


def measure(task: Task) -> dict[str, Any]:
    """Exchange until the time of rank 0 is over; return its summary, or that of the exchanges until it ended."""
    rank, addresses = int(os.environ["RANK"]), os.environ["NODE_ADDRESSES"].split(",")
    mesh = connect(rank, addresses, task.shape.parameters)
    view, vector = mesh.view, np.zeros(task.shape.parameters, np.float32)
    gradients = [PartialSum(root, np.ones_like(vector), 0.0, 1, 1.0) for root in view.roots[rank]]
    clock, step, more = StepClock(task), 0, True
    try:
        while more:
            mesh.scatter(step, gradients)
            mesh.gather(step, vector, finite=True, hold=False)
            step += 1
            more = clock.step() or rank != 0
    except SlicesBrokenError:
        if rank == 0:
            raise
    mesh.close()
    own = view.slices[rank]
    mine, others = own.stop - own.start, task.shape.parameters - (own.stop - own.start)
    return clock.summary() | {"bytes_out": 4 * (others + mine * (len(addresses) - 1))}


if __name__ == "__main__":
    main(measure)
