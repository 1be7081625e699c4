"""Ways to train the same run that must all come to the same bits."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
from plain_training import worker_of

from distsgd.core import numerics
from distsgd.core.reduction import PartialSum
from distsgd.engine import validation
from distsgd.engine.computing import validation_for
from distsgd.engine.portable_serial import PortableSerialLoop
from distsgd.engine.server import ParameterServer
from distsgd.engine.snapshot import Snapshot
from distsgd.engine.spec import RunSpec
from distsgd.engine.validation import Extras

WORKERS = (1, 2, 3, 7)


def digest(spec: RunSpec, state: Snapshot, losses: list[float]) -> str:
    """Return a digest of the parameters, the update rule's state, the losses and what held-out rows give."""
    sha = hashlib.sha256(state.parameters.tobytes())
    for name in sorted(state.slots):
        sha.update(state.slots[name].tobytes())
    assert spec.data.val is not None
    held_out = validation_for(spec.net, spec.plan.bounds, spec.data.val, spec.data.transform, "cpu")
    blocks = held_out.evaluate(state.parameters, range(validation.block_count(len(spec.data.val))), Extras(True, True))
    found = validation.evaluation(blocks, spec.net)
    f1 = None if found.confusion is None else found.confusion.macro_f1
    sha.update(json.dumps([losses, found.metrics, f1], sort_keys=True).encode())
    return sha.hexdigest()


def serial(spec: RunSpec, *, blas_threads: int = 1) -> str:
    """Return the digest of the serial loop."""
    loop, state, losses = PortableSerialLoop(spec), spec.start, []
    with numerics.pinned_blas(blas_threads, None), np.errstate(all="ignore"):
        for _ in range(spec.plan.total_steps):
            state, loss = loop.step(state)
            losses.append(loss)
        return digest(spec, state, losses)


class RandomCuts:
    """A server's link to workers of this process, who get other runs of shards in every step."""

    def __init__(self, spec: RunSpec, seed: int) -> None:
        self.buffers = np.empty((2, spec.net.size), np.float32)
        self._draw = random.Random(seed)
        self._workers = [worker_of(spec) for _ in range(max(WORKERS))]

    def exchange(self, step: int, buffer: int, shards: range) -> list[PartialSum]:
        """Return the sums over random runs of shards in random order."""
        count = min(self._draw.choice(WORKERS), len(shards))
        cuts = [0, *sorted(self._draw.sample(range(1, len(shards)), count - 1)), len(shards)]
        found: list[PartialSum] = []
        for worker, lo, hi in zip(self._workers, cuts, cuts[1:], strict=False):
            if self._draw.random() < 0.5:
                worker.prefetch(step, range(lo, hi), update_here=False)
            found += worker.compute(step, self.buffers[buffer], range(lo, hi))
        self._draw.shuffle(found)
        return found


def randomly_cut(spec: RunSpec, seed: int, *, blas_threads: int = 1, server_threads: int = 1) -> str:
    """Return the digest of a parameter server, with a resume from a snapshot in the middle."""
    total, losses = spec.plan.total_steps, list[float]()
    with numerics.pinned_blas(blas_threads, None):
        start = spec.start
        for until in (total // 2, total):
            begun = dataclasses.replace(spec, start=start)
            server = server_of(begun, RandomCuts(begun, seed), threads=server_threads)
            assert server.run(until) == until
            losses += [record["train/loss"] for record in server.take_records()]
            start = server.snapshot()
        return digest(spec, start, losses)


def server_of(spec: RunSpec, link: Any, *, threads: int = 1) -> ParameterServer:
    """Return a server that records every step."""
    config = spec.config.with_values({"train.log_every": 1})
    return ParameterServer(config=config, net=spec.net, plan=spec.plan, start=spec.start, link=link, threads=threads)


def in_this_process(spec: RunSpec, number: int, *, blas_threads: int = 1) -> Iterator[tuple[str, str]]:
    """Yield the name and the digest of several ways."""
    yield "serial", serial(spec, blas_threads=blas_threads)
    yield "cuts", randomly_cut(spec, number, blas_threads=blas_threads)
    yield "cuts, threads", randomly_cut(spec, number + 1, blas_threads=blas_threads, server_threads=2)
