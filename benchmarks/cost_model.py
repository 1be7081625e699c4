"""What a synchronous step costs: a linear model, its fit, and what it predicts for other numbers of workers and nodes.

A step on one node of w workers, each with b examples of D features, for a net of P parameters:

    T_node = step + w·worker + b·(6P·flop + D·gather) + P·(update + (w − 1)·add) / threads(P)

An example costs 6P floating-point operations, 2P forward and 4P backward. The server updates P parameters and adds the
w gradients, on all cores if the net is large. With N nodes, each of the N − 1 further ones has an aggregator that takes
P parameters in and gives a gradient back, 8P bytes:

    T_between = call + (N − 1)·(aggregator + 8P·byte)

The terms in N − 1 add up because one process, the server's, sends and receives them all. With K slices of the
parameters, each with a server of its own, a server has 8P/K bytes for each aggregator, and an aggregator K calls to
make:

    T_between = call + max((N − 1)·(aggregator + 8P/K·byte), K·aggregator + 8P·byte)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from distsgd.engine.aggregation import THREADED

LATENCY_S, MESSAGE_S, BYTES_PER_S = 50e-6, 5e-6, 25e9 / 8
"""Of a network of 25 Gbit/s: assumed, not measured."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """A step of some net, or an exchange with some aggregators, and the seconds that it took."""

    parameters: int
    features: int = 0
    batch: int = 0
    workers: int = 0
    """On each node; none is the serial loop."""
    nodes: int = 1
    aggregators: int = 0
    """None is a step, and not an exchange."""
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Model:
    """The costs, in seconds."""

    step: float
    """Of a step, whatever is in it."""

    worker: float
    """For each worker of a node: its message, its answer, and waking it."""

    flop: float
    """For each floating-point operation of one worker."""

    gather: float
    """For each number of a row that is gathered."""

    update: float
    """For each parameter, on one thread: the update."""

    add: float
    """For each parameter of each gradient but the first, on one thread."""

    call: float
    """Of an exchange between nodes, whatever is in it."""

    aggregator: float
    """For each aggregator in it."""

    byte: float
    """For each byte to an aggregator, and from it."""

    cores: int
    """Threads that a large net's update is split over."""

    def node(self, parameters: int, features: int, examples: float, workers: int) -> float:
        """Return T_node for so many examples of each worker."""
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
        """Return what T_between would be if each node owned a slice and sent the others theirs over sockets.

        All in all 8P·(N − 1)/N bytes go into each node, and as many out of it, at the same time, in two rounds.
        """
        return 2 * LATENCY_S + 2 * (nodes - 1) * MESSAGE_S + 8 * parameters * (nodes - 1) / nodes / BYTES_PER_S

    def most_nodes(self, parameters: int, features: int, examples: float, workers: int, slices: int = 1) -> int:
        """Return the nodes up to which a step spends no more time between nodes than within one."""
        within = self.node(parameters, features, examples, workers)
        nodes = 1
        while nodes < 2**20 and self.between(parameters, nodes + 1, slices) <= within:
            nodes += 1
        return nodes


def threads(parameters: int, cores: int) -> int:
    """Return the threads of a server's arithmetic."""
    return cores if parameters >= THREADED else 1


def fit(points: Sequence[Point], cores: int) -> Model:
    """Return the model with the least sum of squared relative errors, and no negative costs.

    The serial loop, and steps on several nodes, are not fitted.
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
