"""Training on threads of this process, without Ray: a parameter server whose workers are functions that it calls.

Shards are independent and BLAS releases the interpreter's lock, so threads compute them side by side. The bits are
those of the serial loop, like those of every other way to divide the shards.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from distsgd.core import reduction
from distsgd.core.net import Net
from distsgd.core.packing import touch_buffers
from distsgd.core.reduction import PartialSum
from distsgd.engine.computing import worker_for
from distsgd.engine.server import ParameterServer
from distsgd.engine.snapshot import Snapshot
from distsgd.engine.spec import RunSpec
from distsgd.system.faster import Faster

TICK_S = 0.2
"""Seconds between two calls of `tick`."""

THREADED_FLOPS = 20e6
"""Minimum floating-point operations of a step for a second thread: below it, waking it takes what it saves."""

SURE_FLOPS = 200e6
"""Floating-point operations of a step from which on a second thread always pays; in between, both ways are measured."""


def cores() -> int:
    """Return how many cores this process may keep busy.

    A program that runs several such processes side by side, as joblib does, sets OMP_NUM_THREADS to the share of each.
    """
    share = os.environ.get("OMP_NUM_THREADS", "")
    found = len(os.sched_getaffinity(0))
    return min(found, int(share)) if share.isdecimal() and int(share) > 0 else found


def default_threads(net: Net, batch_size: int, num_shards: int) -> int:
    """Return the number of threads for mini-batches of a size: the cores, or one if the steps are too short."""
    return min(cores(), num_shards) if _flops(net, batch_size) >= THREADED_FLOPS else 1


def is_short(net: Net, batch_size: int) -> bool:
    """Return whether a step is so short that threads may not pay."""
    return _flops(net, batch_size) < SURE_FLOPS


def _flops(net: Net, batch_size: int) -> float:
    # A product forward, two backward, an addition and a multiplication each.
    return 6.0 * batch_size * net.size


class ThreadLink:
    """A server's link to workers that are threads of its process; see server.Link.

    With `adaptive`, this thread computes all shares where that takes less time than to wake the others, as on virtual
    machines, where waking a thread takes as long as computing 10 million operations.
    """

    def __init__(self, spec: RunSpec, threads: int, *, adaptive: bool = False) -> None:
        data, sampler = spec.data, spec.plan.sampler
        self.buffers = np.empty((2, spec.net.size), np.float32)
        self._parameters = list(self.buffers)  # the same objects in every step, whose splits workers keep
        self._tick: Callable[[], None] = lambda: None
        self._next_tick = 0.0
        self._jobs = []
        for share in reduction.assign(threads, sampler.num_shards):
            worker = worker_for(
                spec.net,
                spec.plan.bounds,
                sampler=sampler,
                train=data.train,
                val=None,
                transform=data.transform,
                device="cpu",
                end=spec.plan.total_steps,
            )
            sums = np.empty((len(worker.summation.nodes(share)), spec.net.size), spec.net.sums_dtype)
            self._jobs.append((worker, share, list(sums)))
        self._pool = ThreadPoolExecutor(threads - 1, "shards") if threads > 1 else None
        self._faster = Faster() if adaptive and threads > 1 else None
        touch_buffers(self._pool, threads - 1)

    def exchange(self, step: int, buffer: int, shards: range) -> list[PartialSum]:  # noqa: ARG002 - always all of them
        """Return the gradients of all shards; this thread computes its share while the others compute theirs."""
        now = time.monotonic()
        if now >= self._next_tick:
            self._next_tick = now + TICK_S
            self._tick()
        flat = self._parameters[buffer]
        if self._faster is None:
            return self._side_by_side(step, flat) if self._pool else self._one_by_one(step, flat)
        began, way = time.perf_counter(), self._faster.way()
        found = self._one_by_one(step, flat) if way else self._side_by_side(step, flat)
        self._faster.learn(way, time.perf_counter() - began)
        return found

    def _one_by_one(self, step: int, flat: np.ndarray) -> list[PartialSum]:
        found: list[PartialSum] = []
        for worker, share, out in self._jobs:
            found += worker.compute(step, flat, share, out)
        return found

    def _side_by_side(self, step: int, flat: np.ndarray) -> list[PartialSum]:
        assert self._pool is not None
        (worker, own, out), *jobs = self._jobs
        others = [self._pool.submit(worker.compute, step, flat, share, out) for worker, share, out in jobs]
        found = worker.compute(step, flat, own, out)
        for other in others:
            found += other.result()
        return found

    def start(self, tick: Callable[[], None]) -> None:
        """Call `tick` several times a second from now on, between two steps."""
        self._tick, self._next_tick = tick, time.monotonic() + TICK_S

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()


class ThreadedTraining:
    """Trains from a state; `engine.local.SerialTraining` has the same methods, and the same results."""

    def __init__(self, spec: RunSpec, threads: int, *, adaptive: bool = False) -> None:
        self._spec, self._threads = spec, threads
        self._link = ThreadLink(spec, threads, adaptive=adaptive)
        self.recover(spec.start)

    def recover(self, start: Snapshot) -> None:
        """Continue from another state."""
        config, net, plan = self._spec.config, self._spec.net, self._spec.plan
        self._server = ParameterServer(
            config=config, net=net, plan=plan, start=start, link=self._link, threads=self._threads
        )

    def run(self, until: int, tick: Callable[[], None]) -> int:
        """See LocalTrainer.run."""
        self._link.start(tick)
        return self._server.run(until)

    def stop(self) -> None:
        """See LocalTrainer.stop."""
        self._server.stop()

    def take_records(self) -> list[dict[str, Any]]:
        """See LocalTrainer.take_records."""
        return self._server.take_records()

    def snapshot(self) -> Snapshot:
        """See LocalTrainer.snapshot."""
        return self._server.snapshot()

    def timings(self) -> dict[str, float]:
        """See LocalTrainer.timings."""
        return self._server.timings()

    def close(self) -> None:
        """End the threads."""
        self._link.close()
