"""A linear cost model of a synchronous step: its fit, and its predictions for other numbers of workers and nodes.

A step on one node with w workers, each with b examples of D features, for a net of P parameters:

    T_node = step + w·worker + b·(6P·flop + D·gather) + P·(update + (w − 1)·add) / threads(P)

An example costs 6P floating-point operations, 2P forward and 4P backward. The server updates P parameters and adds the
w gradients, on all cores if the net is large. With N nodes, each owns a slice of P/N parameters: it sends every other
node that part of its gradient, and then its own new slice, and receives as much, 8P(N − 1)/N bytes in each direction:

    T_between = exchange + (N − 1)·peer + 8P(N − 1)/N·byte

With one server for all, which sends parameters to N − 1 others and receives their gradients, the bytes would be
8P(N − 1) at the server:

    T_one_server = exchange + (N − 1)·(peer + 8P·byte)

Both are times of processors; the network's come on top.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from distsgd.engine.aggregation import THREADED

LATENCY_S, BYTES_PER_S = 50e-6, 25e9 / 8
"""Assumed for a network of 25 Gbit/s, one way, not measured."""

MOST = 2**14
"""Nodes at which `most_nodes` stops."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """A measurement: a step of a net, or an exchange between nodes without one, and the seconds it took."""

    parameters: int
    features: int = 0
    batch: int = 0
    workers: int = 0
    """Per node; 0 is the serial loop."""
    nodes: int = 1
    is_exchange: bool = False
    """Whether it is an exchange alone, between `nodes` nodes that share the cores of one machine."""
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Model:
    """The fitted costs, in seconds."""

    step: float
    """Fixed cost of a step."""

    worker: float
    """Per worker of a node: sending its task, waking it and receiving its answer."""

    flop: float
    """Per floating-point operation of one worker."""

    gather: float
    """Per feature value that is gathered."""

    update: float
    """Per parameter, on one thread: the update."""

    add: float
    """Per parameter of each gradient after the first, on one thread: the addition."""

    exchange: float
    """Fixed cost of an exchange between nodes."""

    peer: float
    """Per other node in an exchange."""

    byte: float
    """Per byte that a node sends and receives."""

    cores: int
    """Threads that share the update of a large net."""

    def node(self, parameters: int, features: int, examples: float, workers: int) -> float:
        """Return T_node for this many examples per worker."""
        work = examples * (6 * parameters * self.flop + features * self.gather)
        server = parameters * (self.update + (workers - 1) * self.add) / threads(parameters, self.cores)
        return self.step + workers * self.worker + work + server

    def between(self, parameters: int, nodes: int) -> float:
        """Return T_between."""
        if nodes == 1:
            return 0.0
        return self.exchange + (nodes - 1) * (self.peer + 8 * parameters / nodes * self.byte)

    def one_server(self, parameters: int, nodes: int) -> float:
        """Return T_one_server."""
        return self.exchange + (nodes - 1) * (self.peer + 8 * parameters * self.byte) if nodes > 1 else 0.0

    def on_shared_cores(self, parameters: int, nodes: int) -> float:
        """Return T_between if the nodes share the cores of one machine."""
        return self.between(parameters, nodes) * max(1.0, nodes / self.cores)

    def most_nodes(self, parameters: int, features: int, examples: float, workers: int) -> int:
        """Return the largest number of nodes for which T_between and the network take no longer than T_node.

        MOST if there are that many.
        """
        within = self.node(parameters, features, examples, workers)
        nodes = 1
        while nodes < MOST and self.between(parameters, nodes + 1) + network_s(parameters, nodes + 1) <= within:
            nodes += 1
        return nodes


def network_s(parameters: int, nodes: int) -> float:
    """Return what the network adds to an exchange: two one-way latencies, and the bytes."""
    return 2 * LATENCY_S + 8 * parameters * (nodes - 1) / nodes / BYTES_PER_S if nodes > 1 else 0.0


def threads(parameters: int, cores: int) -> int:
    """Return the number of threads for the server's arithmetic."""
    return cores if parameters >= THREADED else 1


def fit(points: Sequence[Point], cores: int) -> Model:
    """Return the model with the smallest sum of squared relative errors and no negative costs.

    Points of the serial loop and of steps on several nodes are not used.
    """

    def step_terms(p: Point) -> list[float]:
        share, per_thread = p.batch / p.workers, p.parameters / threads(p.parameters, cores)
        return [
            *(1, p.workers, 6 * p.parameters * share, p.features * share),
            *(per_thread, (p.workers - 1) * per_thread),
        ]

    def exchange_terms(p: Point) -> list[float]:
        shared = max(1.0, p.nodes / cores)
        return [shared, shared * (p.nodes - 1), shared * 8 * p.parameters * (p.nodes - 1) / p.nodes]

    steps = [p for p in points if p.workers and p.nodes == 1]
    step, worker, flop, gather, update, add = _solve(steps, step_terms)
    exchange, peer, byte = _solve([p for p in points if p.is_exchange], exchange_terms)
    return Model(
        step=step, worker=worker, flop=flop, gather=gather, update=update, add=add,
        exchange=exchange, peer=peer, byte=byte, cores=cores,
    )  # fmt: skip


def _solve(points: Sequence[Point], terms: Callable[[Point], list[float]]) -> list[float]:
    seconds = np.array([point.seconds for point in points])
    matrix = np.array([terms(point) for point in points]) / seconds[:, None]
    scale = matrix.max(axis=0)
    found, _ = nnls(matrix / scale, np.ones(len(points)))
    return [float(value) for value in found / scale]
