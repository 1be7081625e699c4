"""Where the time in a step goes, in every process: `python -m benchmarks.profile_step --shape 3072-20-10`.

The server and the workers are distsgd's own, with its shared-memory transport, in processes without Ray (Ray takes no
part in a step). Their functions are timed from outside (stopwatch.py), which makes a small step a few microseconds
longer.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import options
from benchmarks.options import ShapeType
from benchmarks.peers.common import L2, LR
from benchmarks.shapes import Shape, StoredType, make_data
from benchmarks.stopwatch import Stopwatch
from distsgd.cluster.actors import ServerActor
from distsgd.cluster.launching import Label
from distsgd.comm.endpoint import Endpoint
from distsgd.comm.transport import worker_name
from distsgd.config import Config
from distsgd.core import numerics
from distsgd.data import ArrayRows, load
from distsgd.engine.arithmetic import ARITHMETICS
from distsgd.engine.computing import Computing, worker_for
from distsgd.engine.spec import RunSpec

WORKER_HOOKS = {
    "distsgd.core.sampling:PrefetchedRows.of": "row numbers",
    "distsgd.data.gatherer:Gatherer.gather": "gather",
    "distsgd.core.backprop:forward": "forward",
    "distsgd.core.losses:SoftmaxCrossEntropy.losses": "loss, softmax",
    "distsgd.engine.worker:loss_and_gradient_sums": "backward",
    "distsgd.engine.worker:Worker.compute": "add shards",
    "distsgd.core.portable.step:Grids.of": "grids",
    "distsgd.core.portable.backprop:_round_features": "round features",
    "distsgd.core.portable.backprop:_round_weights": "round weights",
    "distsgd.core.portable.backprop:_activate": "activation",
    "distsgd.core.portable.backprop:forward": "forward",
    "distsgd.core.portable.losses:SoftmaxCrossEntropy.losses": "loss, softmax",
    "distsgd.engine.portable_worker:loss_and_gradient_sums": "backward",
    "distsgd.comm.unix_socket:Connection.send": "send",
    "distsgd.comm.unix_socket:Connection.wait_unbounded": "wait",
    "distsgd.comm.unix_socket:Connection.receive": "receive",
}
"""The functions of a worker and the phase each belongs to. It prefetches the next step's rows while the server works.

`send` includes the time during which the process it wakes up preempts the sender.
"""

SERVER_HOOKS = {
    "distsgd.comm.shared_memory:SharedMemoryPeer.start": "publish",
    "distsgd.comm.dispatcher:spin": "wait",
    "distsgd.comm.dispatcher:Dispatcher._await_slowest": "wait",
    "distsgd.comm.exchange:Exchange.collect": "wait",
    "distsgd.comm.shared_memory:SharedMemoryPeer.receive": "receive",
    "distsgd.engine.aggregation:Aggregation._block_sum": "reduce",
    "distsgd.engine.portable_aggregation:PortableAggregation._block_sum": "reduce",
    "distsgd.core.update_rules:SGD.update": "update",
    "distsgd.engine.aggregation:_is_finite": "check finite",
    "distsgd.engine.aggregation:Aggregation.update": "threads",
    "distsgd.engine.server:ParameterServer._record": "journal",
}
"""The same for the server; `threads` is the time to start work on its other threads and wait for them."""

PHASES = tuple(dict.fromkeys((*WORKER_HOOKS.values(), *SERVER_HOOKS.values())))

TRIAL_STEPS = 50
"""Steps at the start that are not counted; their duration determines how many steps are measured."""

START_S = 60.0


class ProfiledServer(ServerActor):
    """The parameter server without Ray."""

    @property
    def address(self) -> str:
        """The address that workers connect to."""
        return self._acceptor.address

    def close(self) -> None:
        """Disconnect the workers and release what would otherwise be released when the actor's process exits."""
        self._reporter.close()
        self._acceptor.close()
        self._dispatcher.close()
        self._blas.__exit__(None, None, None)


class ProfiledWorker:
    """Forwards calls from an endpoint to a worker, and discards the time spent before step `first`."""

    def __init__(self, worker: Computing, watch: Stopwatch, first: int) -> None:
        self._worker, self._watch, self._first = worker, watch, first

    def compute(self, step: int, flat: np.ndarray, shards: range, out: np.ndarray) -> Any:
        """See Worker.compute."""
        if step == self._first:
            self._watch.reset()
        return self._worker.compute(step, flat, shards, out)

    def prefetch(self, step: int, shards: range, *, update_here: bool) -> None:
        """See Worker.prefetch."""
        self._worker.prefetch(step, shards, update_here=update_here)


def work(number: int, address: str, data: Path, keywords: dict[str, Any], results: Any) -> None:
    """Run a worker until the server disconnects, then report the seconds per phase since the trial steps."""
    with numerics.pinned_blas(1, None):
        rows = ArrayRows(np.load(data / "X.npy"), np.load(data / "y.npy"))
        watch = Stopwatch()
        watch.install(WORKER_HOOKS)
        worker = worker_for(train=rows, val=None, device="cpu", **keywords)
        Endpoint.connect(address, number, worker.net.size).serve(ProfiledWorker(worker, watch, TRIAL_STEPS))
    results.put((worker_name(number), dict(watch.seconds)))


def configuration(shape: Shape, data: Path, workers: int, num_shards: int, arithmetic: str) -> Config:
    """Return the configuration that the comparison uses for distsgd."""
    return Config.build(
        {
            "model.hidden": shape.hidden,
            "optim.lr": LR,
            "optim.l2": L2,
            "train.batch_size": shape.batch,
            "train.num_shards": num_shards,
            "train.arithmetic": arithmetic,
            "train.epochs": 1_000_000,
            "data.train": str(data / "data.npz"),
            "data.label": "y",
            "data.features": "X",
            "data.val_fraction": 0,
            "data.normalize": "unit" if "uint8" in data.name else "none",
            "run.workers": workers,
            "run.timeout_s": 60,
        }
    )


@dataclass(frozen=True)
class Profile:
    """Where the time in the average step went."""

    mean_ms: float
    median_ms: float
    phases: dict[str, dict[str, float]]
    """Milliseconds a step for each process and phase."""

    def table(self, title: str) -> Table:
        """Return the profile as a table; `other` is the time between the timed functions."""
        drawn = Table(title=f"{title}: {self.mean_ms:.3f} ms a step on average, {self.median_ms:.3f} in the median")
        drawn.add_column("microseconds a step")
        for name in self.phases:
            drawn.add_column(name, justify="right")
        for phase in PHASES:
            if any(phase in phases for phases in self.phases.values()):
                drawn.add_row(phase, *(self._cell(phases.get(phase)) for phases in self.phases.values()))
        drawn.add_row("other", *(self._cell(self.mean_ms - sum(phases.values())) for phases in self.phases.values()))
        return drawn

    def _cell(self, ms: float | None) -> str:
        return "" if ms is None else f"{1e3 * ms:.1f}  {100 * ms / self.mean_ms:3.0f} %"


def profile(config: Config, data: Path, workers: int, seconds: float) -> Profile:
    """Train for `seconds` and return where the time went."""
    spec = RunSpec.beginning(config, load(config.data))
    label = Label("profile", "server")
    server = ProfiledServer(label=label, config=config, net=spec.net, plan=spec.plan, start=spec.start, workers=workers)
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    plan = spec.plan
    keywords = {"net": spec.net, "bounds": plan.bounds, "sampler": plan.sampler, "transform": spec.data.transform}
    processes = [
        context.Process(target=work, args=(number, server.address, data, keywords, results), daemon=True)
        for number in range(workers)
    ]
    for process in processes:
        process.start()
    _wait_for_workers(server, workers)
    watch = Stopwatch()
    watch.install(SERVER_HOOKS)
    trial_s = _seconds_of(server, TRIAL_STEPS)
    watch.reset()
    count = max(20, int(seconds * TRIAL_STEPS / trial_s))
    taken_s = _seconds_of(server, TRIAL_STEPS + count)
    totals = {"server": dict(watch.seconds)}
    server.close()
    totals |= dict(sorted(results.get() for _ in processes))
    for process in processes:
        process.join()
    return Profile(
        mean_ms=1e3 * taken_s / count,
        median_ms=server.timings()["step_ms_p50"],
        phases={name: {phase: 1e3 * s / count for phase, s in totals[name].items()} for name in totals},
    )


def _seconds_of(server: ProfiledServer, until: int) -> float:
    began = time.perf_counter()
    server.run(until)
    return time.perf_counter() - began


def _wait_for_workers(server: ProfiledServer, workers: int) -> None:
    deadline = time.monotonic() + START_S
    while server.size() < workers:
        if time.monotonic() > deadline:
            raise click.ClickException(f"{server.size()} of {workers} workers have connected within {START_S:g} s")
        time.sleep(0.02)


@click.command()
@click.option("--shape", type=ShapeType(), default="3072-20-10@256", show_default=True, help="The net and mini-batch.")
@click.option("--num-shards", type=int, help="Shards of a mini-batch; default: one per worker.")
@click.option("--arithmetic", type=click.Choice(list(ARITHMETICS)), default="fast", show_default=True)
@options.workers
@options.stored
@options.seconds
def main(
    shape: Shape, num_shards: int | None, arithmetic: str, workers: int, stored: StoredType, seconds: float
) -> None:
    """Show where the time in a step goes, in the server and in each worker."""
    # One BLAS thread per process, as in distsgd; must be set before the library is loaded.
    os.environ.update(numerics.environment(1, None))
    shards = num_shards or workers
    with tempfile.TemporaryDirectory(prefix="distsgd-bench-") as folder:
        data = make_data(shape, stored, Path(folder))
        profiled = profile(configuration(shape, data, workers, shards, arithmetic), data, workers, seconds)
    Console().print(profiled.table(f"{shape}, {workers} workers, {shards} shards, {stored}, {arithmetic}"))


if __name__ == "__main__":
    main()
