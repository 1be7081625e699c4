"""Training without Ray: a parameter server in this process, and workers that are real processes of their own.

Run as a program, this file is such a worker.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from distsgd.comm.acceptor import Acceptor
from distsgd.comm.deadlines import Deadlines
from distsgd.comm.dispatcher import Dispatcher
from distsgd.comm.endpoint import Endpoint
from distsgd.comm.messages import PeerSettings
from distsgd.config import Config
from distsgd.core import numerics
from distsgd.core.backend import Device
from distsgd.data import ArrayRows, BatchTransform, DataSet, InputSchema, Normalization
from distsgd.engine.computing import worker_for
from distsgd.engine.plan import summation
from distsgd.engine.portable_serial import serial_loop
from distsgd.engine.server import ParameterServer
from distsgd.engine.spec import RunSpec

START_S = 60.0


def some_spec(*, rows: int = 96, features: int = 6, classes: int = 3, dtype: str = "f4", **values: Any) -> RunSpec:
    """Return a run's beginning on random rows; a keyword's `__` stands for a key's dot."""
    defaults = {"model.hidden": 5, "train.batch_size": 32, "train.num_shards": 5, "run.timeout_s": 30}
    config = Config.build(defaults, {key.replace("__", "."): value for key, value in values.items()})
    rng = np.random.default_rng(rows)
    X = rng.integers(0, 255, (rows, features)).astype(dtype) if dtype == "u1" else rng.normal(size=(rows, features))
    y = np.arange(rows) % classes
    schema = InputSchema(
        tuple(f"f{i}" for i in range(features)), (np.dtype(dtype).name,) * features, None, ("y",), "integer"
    )
    data = DataSet(
        train=ArrayRows(X.astype(dtype), y),
        val=None,
        classes=np.arange(classes),
        feature_names=schema.feature_names,
        schema=schema,
        inputs=schema.inputs,
        normalization=Normalization(np.zeros(features), np.ones(features)),
        transform=BatchTransform(scale=np.array([1 / 255], "f4") if dtype == "u1" else None),
        digest="",
        source="memory",
    )
    return RunSpec.beginning(config, data)


def worker_of(spec: RunSpec, device: Device = "cpu") -> Any:
    """Return a worker for a run."""
    data = spec.data
    return worker_for(
        spec.net,
        spec.plan.bounds,
        sampler=spec.plan.sampler,
        train=data.train,
        val=data.val,
        transform=data.transform,
        device=device,
        end=spec.plan.total_steps,
    )


def serial_parameters(spec: RunSpec, steps: int) -> bytes:
    """Return the bytes of the parameters after so many steps of the serial loop."""
    loop, state = serial_loop(spec), spec.start
    with numerics.pinned_blas(1, None), np.errstate(all="ignore"):
        for _ in range(steps):
            state, _ = loop.step(state)
    return state.parameters.tobytes()


@dataclass
class Training:
    """A server, and the workers that have been started for it."""

    spec: RunSpec
    dispatcher: Dispatcher
    acceptor: Acceptor
    server: ParameterServer
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start_worker(self, environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start a worker's process; it connects when it has imported what it needs."""
        process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            env=os.environ | numerics.environment(1, None) | dict(environment or {}),
        )
        assert process.stdin is not None
        with process.stdin as pipe:
            pickle.dump((self.acceptor.address, len(self.processes), self.spec), pipe)
        self.processes.append(process)
        return process

    def end(self) -> None:
        """Hang up on the workers, and wait until they have ended; AssertionError if one of them failed."""
        self.acceptor.close()
        self.dispatcher.close()
        try:
            codes = {process.wait(START_S) for process in self.processes}
        finally:
            for process in self.processes:
                process.kill()
                process.wait()
        assert codes <= {0, -signal.SIGKILL}, codes

    def await_workers(self, count: int) -> None:
        """Return when the dispatcher has so many workers."""
        deadline = time.monotonic() + START_S
        while self.dispatcher.members.size() < count:
            assert time.monotonic() < deadline, f"{self.dispatcher.members.size()} of {count} workers have connected"
            time.sleep(0.01)


@contextlib.contextmanager
def training(
    spec: RunSpec, *, workers: int, threads: int = 1, cores: int = 0, timeout_s: float = 30.0, **dispatcher: Any
) -> Iterator[Training]:
    """Yield a server whose workers have connected; afterwards none of their processes is left."""
    keywords = {"deadlines": Deadlines.fixed(timeout_s), "arrival_timeout_s": 30.0, "spin": False} | dispatcher
    made = Dispatcher(spec.net.size, **keywords)
    settings = PeerSettings.of(spec.net.size, summation(spec.config), spin=keywords["spin"])
    acceptor = Acceptor(made, settings, cores=cores)
    server = ParameterServer(
        config=spec.config, net=spec.net, plan=spec.plan, start=spec.start, link=made, threads=threads
    )
    found = Training(spec, made, acceptor, server)
    try:
        for _ in range(workers):
            found.start_worker()
        found.await_workers(workers)
        yield found
    finally:
        found.end()


def cpu_seconds(pid: int) -> float:
    """Return the seconds of a core that a process, all its threads together, has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def state_of(pid: int) -> str:
    """Return the kernel's letter for what a process does: R runs, S sleeps, T is stopped, Z is dead."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def main() -> None:
    address, number, spec = pickle.load(sys.stdin.buffer)
    with numerics.pinned_blas(1, None):
        worker = worker_of(spec)
        Endpoint.connect(address, number, spec.net.size).serve(worker)


if __name__ == "__main__":
    main()
