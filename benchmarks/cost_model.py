"""A linear cost model of a synchronous step: its fit, and its predictions for other numbers of workers and nodes.

A step on one node with w workers, each with b examples of D features, for a net of P parameters:

    T_node = step + w·worker + b·(6P·flop + D·gather) + P·(update + (w − 1)·add) / threads(P)

An example costs 6P floating-point operations, 2P forward and 4P backward. The server updates P parameters and adds the
w gradients, on all cores if the net is large. With N nodes, each of the other N − 1 has an aggregator that receives
P parameters and returns a gradient, 8P bytes in all:

    T_between = call + (N − 1)·(aggregator + 8P·byte)

The N − 1 terms add up because one process, the server, sends and receives them all. With K slices of the parameters,
each with its own server, a server exchanges 8P/K bytes with each aggregator, and an aggregator makes K calls:

    T_between = call + max((N − 1)·(aggregator + 8P/K·byte), K·aggregator + 8P·byte)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from distsgd.engine.aggregation import THREADED

LATENCY_S, MESSAGE_S, BYTES_PER_S = 50e-6, 5e-6, 25e9 / 8
"""Assumed for a 25 Gbit/s network, not measured."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """A measurement: a step of a net, or an exchange with aggregators, and the seconds it took."""

    parameters: int
    features: int = 0
    batch: int = 0
    workers: int = 0
    """Per node; 0 is the serial loop."""
    nodes: int = 1
    aggregators: int = 0
    """0 is a step rather than an exchange."""
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

    call: float
    """Fixed cost of an exchange between nodes."""

    aggregator: float
    """Per aggregator in an exchange."""

    byte: float
    """Per byte sent to or received from an aggregator."""

    cores: int
    """Threads that share the update of a large net."""

    def node(self, parameters: int, features: int, examples: float, workers: int) -> float:
        """Return T_node for this many examples per worker."""
        work = examples * (6 * parameters * self.flop + features * self.gather)
        server = parameters * (self.update + (workers - 1) * self.add) / threads(parameters, self.cores)
        return self.step + workers * self.worker + work + server

    def between(self, parameters: int, nodes: int, slices: int = 1) -> float:
        """Return T_between."""
        if nodes == 1:
            return 0.0
        at_server = (nodes - 1) * (self.aggregator + 8 * parameters / slices * self.byte)
        at_aggregator = slices * self.aggregator + 8 * parameters * self.byte
        return self.call + max(at_server, at_aggregator)

    def over_sockets(self, parameters: int, nodes: int) -> float:
        """Return what T_between would be if each node owned a slice and exchanged slices over sockets.

        Each node receives 8P·(N − 1)/N bytes in total and sends as many at the same time, in two rounds.
        """
        return 2 * LATENCY_S + 2 * (nodes - 1) * MESSAGE_S + 8 * parameters * (nodes - 1) / nodes / BYTES_PER_S

    def most_nodes(self, parameters: int, features: int, examples: float, workers: int, slices: int = 1) -> int:
        """Return the largest number of nodes for which T_between is not longer than T_node."""
        within = self.node(parameters, features, examples, workers)
        nodes = 1
        while nodes < 2**20 and self.between(parameters, nodes + 1, slices) <= within:
            nodes += 1
        return nodes


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
        return [1, p.aggregators, 8 * p.parameters * p.aggregators]

    steps = [p for p in points if p.workers and p.nodes == 1]
    step, worker, flop, gather, update, add = _solve(steps, step_terms)
    call, aggregator, byte = _solve([p for p in points if p.aggregators], exchange_terms)
    return Model(
        step=step, worker=worker, flop=flop, gather=gather, update=update, add=add,
        call=call, aggregator=aggregator, byte=byte, cores=cores,
    )  # fmt: skip


def _solve(points: Sequence[Point], terms: Callable[[Point], list[float]]) -> list[float]:
    seconds = np.array([point.seconds for point in points])
    matrix = np.array([terms(point) for point in points]) / seconds[:, None]
    scale = matrix.max(axis=0)
    found, _ = nnls(matrix / scale, np.ones(len(points)))
    return [float(value) for value in found / scale]
