"""What is to happen in a run: drawn from a seed, the same for the same seed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from distsgd.system.faults import Fault

MOMENTS = {
    "worker": ("asked", "computed", "answered", "validating"),
    "server": ("begun", "gathered", "applied", "validating"),
    "aggregator": ("asked", "gathered"),
    "driver": ("journaled", "checkpointed", "validated", "written"),
}

SIGNALS = {
    "worker": ("SIGKILL", "SIGKILL", "SIGSTOP"),
    "server": ("SIGKILL", "SIGKILL", "SIGSTOP"),
    "aggregator": ("SIGKILL", "SIGKILL", "SIGSTOP"),
    "driver": ("SIGKILL", "SIGKILL", "SIGSTOP", "SIGTERM"),
}


@dataclass(frozen=True)
class Shape:
    """What is trained; its undisturbed run is made once."""

    data: str
    epochs: int
    steps_per_epoch: int
    settings: tuple[tuple[str, Any], ...]

    @property
    def steps(self) -> int:
        return self.epochs * self.steps_per_epoch


DIGITS = {"model.hidden": 16, "train.num_shards": 5, "train.log_every": 7, "optim.momentum": 0.9, "optim.lr": 0.01}
MNIST = {"model.hidden": 20, "train.batch_size": 256, "optim.momentum": 0.9, "optim.lr": 0.02}

SHAPES = {
    "digits": (
        Shape("digits", 6, 23, tuple(DIGITS.items())),
        Shape("digits", 100, 23, tuple((DIGITS | {"train.eval_every": 5}).items())),
    ),
    "mnist": (Shape("mnist", 4, 188, tuple((MNIST | {"train.num_shards": 6}).items())),),
}
"""Short runs, most of which are over before anybody is replaced, and ones that see replacements at work."""


KINDS = ("cut", "unplug", "stall", "kill")


@dataclass(frozen=True)
class Strike:
    """What befalls a node or a link from the outside, once the journal has reached a step."""

    kind: str
    """`cut`: all that `node` sends to `other` is lost. `unplug`: the node is separated from all others. `stall`: its
    actors are stopped. `kill`: all its processes are killed."""
    node: int
    other: int
    step: int
    lasting_s: float
    """After that it is undone, except for `kill`."""

    def __str__(self) -> str:
        whom = f"{self.node} to {self.other}" if self.kind == "cut" else f"{self.node}"
        return f"{self.kind} {whom} at {self.step}" + (f" for {self.lasting_s:g} s" if self.kind != "kill" else "")


@dataclass(frozen=True)
class Schedule:
    """One run and what befalls it."""

    seed: int
    shape: Shape
    workers: int
    two_nodes: bool
    link: str
    faults: tuple[Fault, ...]
    nodes: tuple[int, ...] = ()
    """The CPUs of nodes with addresses of their own; empty for raylets that share the machine's."""
    strikes: tuple[Strike, ...] = ()

    def __str__(self) -> str:
        where = "on two nodes" if self.two_nodes else "on one node"
        where = f"on nodes of {self.nodes}" if self.nodes else where
        listed = ", ".join(
            [
                f"{f.signal} {f.role}{f' {f.index}' if f.role == 'worker' else ''} {f.moment} {f.step}"
                for f in self.faults
            ]
            + [str(strike) for strike in self.strikes]
        )
        return (
            f"seed {self.seed}: {self.workers} workers {where}, {self.shape.steps} steps of {self.shape.data}: {listed}"
        )


def draw(seed: int, data: str) -> Schedule:
    """Return the schedule that a seed stands for."""
    rng = random.Random(f"{data} {seed}")
    shape, two_nodes = rng.choice(SHAPES[data]), rng.random() < 0.5
    workers = 4 if two_nodes else rng.randint(2, 4)  # a node's only worker has no aggregator that could be hit
    link = "ray" if rng.random() < 0.1 else "auto"
    roles = ["worker", "server", "driver"] + (["aggregator"] if two_nodes and link == "auto" else [])
    faults: list[Fault] = []
    for _ in range(rng.randint(1, 4)):
        role = rng.choice(roles)
        index = rng.randrange(workers) if role == "worker" else 0
        step, moment = rng.randint(1, shape.steps), rng.choice(MOMENTS[role])
        signum = rng.choice(SIGNALS[role])
        faults.append(Fault(role, index, step, moment, signum))
        if rng.random() < 0.25:  # somebody else at the same step
            other = rng.choice(roles)
            index = rng.randrange(workers) if other == "worker" else 0
            faults.append(Fault(other, index, step, rng.choice(MOMENTS[other]), rng.choice(SIGNALS[other])))
    return Schedule(seed, shape, workers, two_nodes, link, tuple(faults))


def draw_network(seed: int) -> Schedule:
    """Return the schedule of faults of processes, nodes and links, on two to four nodes, that a seed stands for."""
    rng = random.Random(f"network {seed}")
    shape, count = SHAPES["digits"][1], rng.randint(2, 4)
    nodes = tuple(rng.randint(1, 2) if number < 5 - count else 1 for number in range(count))  # five shards
    workers, faults, strikes = sum(nodes), [], []
    for _ in range(rng.randint(0, 2)):
        role = rng.choice(("worker", "worker", "server", "aggregator", "endpoint"))
        index = rng.randrange(workers) if role == "worker" else 0
        moments = MOMENTS["worker"][:3] if role == "endpoint" else MOMENTS[role]
        signum = rng.choice(("SIGKILL", "SIGSTOP"))
        faults.append(Fault(role, index, rng.randint(1, shape.steps), rng.choice(moments), signum))
    for _ in range(rng.randint(1, 2)):
        kind = rng.choice(KINDS)
        # The head has the driver and Ray's own control; it can be cut off for a while, which the others survive.
        node = rng.randrange(1 if kind != "cut" else 0, len(nodes))
        other = rng.choice([number for number in range(len(nodes)) if number != node])
        strikes.append(Strike(kind, node, other, rng.randint(1, shape.steps * 3 // 4), rng.choice((1.0, 6.0, 25.0))))
    return Schedule(seed, shape, workers, False, "auto", tuple(faults), nodes, tuple(strikes))
