"""Joining a Ray cluster or starting a local one, and refusing what its resources cannot carry."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from distsgd.cluster.joining import first_lines, join
from distsgd.config import Config
from distsgd.core.backend import Device, array_module, cuda_problem
from distsgd.errors import ResourceError
from distsgd.system.scratch import scratch_folder
from distsgd.system.signals import keeping_sigterm

PER_CORE = 4
"""Workers that a local run may put on one core; more would only take turns, each with 200 MB of its own."""

STORE_RESERVE = 512 * 2**20
"""Bytes of a local object store beside the rows: parameters and gradients on their way, and Ray's minimum."""

PROBE_S = 60.0
"""Seconds in which a process on a node with a GPU must have said whether that works."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cluster:
    """The resources of the Ray that this process is connected to."""

    cpus: float
    gpus: float
    local: bool
    runtime_env: dict[str, Any]
    """What actors must be started with; nothing on a local Ray, whose processes have the environment already."""


def address_of(config: Config) -> str | None:
    """Return the address of the cluster to join, or None for a local Ray."""
    address = config.run.address or os.environ.get("RAY_ADDRESS") or None
    return None if address == "local" else address


def cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0))


def default_workers(config: Config, cpus: float) -> int:
    """Return the number of workers that are asked for, where there are `cpus`."""
    if isinstance(config.run.workers, int):
        return config.run.workers
    return max(1, min(int(cpus) // config.run.blas_threads, config.train.num_shards))


@contextlib.contextmanager
def joined(config: Config, environment: dict[str, str]) -> Iterator[Cluster | None]:
    """Join the cluster that the configuration or RAY_ADDRESS names and yield it; None if a local Ray is to be started.

    A Ray that the caller has already started is used and left running. Raises ResourceError if the cluster cannot be
    reached or cannot hold what is asked of it.
    """
    address = address_of(config)
    if config.run.workers == 0 or (address is None and not _is_initialized()):
        _check_local(config)
        yield None
        return
    import ray

    ours = not ray.is_initialized()
    if ours and address is not None:
        join(address)
        _quieten()
    try:
        cluster = _resources(environment, local=False)
        check_cpus(config, default_workers(config, cluster.cpus), cluster)
        yield cluster
    finally:
        if ours:
            ray.shutdown()


@contextlib.contextmanager
def started(config: Config, environment: dict[str, str], *, data_bytes: int) -> Iterator[Cluster]:
    """Start a local Ray with room for `data_bytes` of rows, whose processes get `environment`, and yield it."""
    # Ray turns token authentication on for a local cluster. With a token of this process's own it need not write one
    # to the home directory, which would change what a later `ray start` does.
    if "RAY_AUTH_TOKEN_PATH" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    # Ray gives its workers a low priority, so that its own processes get their turn; a step does not need those.
    niceness = {"RAY_worker_niceness": os.environ.get("RAY_worker_niceness", "0")}
    with _environment_set(environment | niceness), scratch_folder() as folder:
        try:
            _start(str(folder), config, data_bytes)
            _quieten()
            yield _resources(environment, local=True)
        finally:
            ray.shutdown()


def _start(folder: str, config: Config, data_bytes: int) -> None:
    """Start a local Ray with its files in `folder`; ResourceError if it cannot be."""
    import ray

    workers = config.run.workers if isinstance(config.run.workers, int) else 0
    try:
        with keeping_sigterm():
            ray.init(
                address="local",
                num_cpus=max(cores(), workers * config.run.blas_threads),
                object_store_memory=int(1.1 * data_bytes) + STORE_RESERVE,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _temp_dir=folder,
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise ResourceError(
            f"a local Ray with room for {data_bytes:,} bytes of rows could not be started: {first_lines(error)}; "
            "make room in memory and in /dev/shm, or train without Ray (--workers 0)"
        ) from None


@contextlib.contextmanager
def _environment_set(variables: dict[str, str]) -> Iterator[None]:
    """Set environment variables, which processes started meanwhile inherit."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _is_initialized() -> bool:
    """Return whether this process is connected to a Ray, without importing it to find out."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def _check_local(config: Config) -> None:
    """Raise ResourceError if this machine has no GPU that is asked for, or cannot sensibly carry all workers."""
    if config.run.device == "cuda":
        array_module("cuda")
    workers, limit = config.run.workers, PER_CORE * cores()
    if isinstance(workers, int) and workers * config.run.blas_threads > limit:
        raise ResourceError(
            f"{workers} workers with {config.run.blas_threads} BLAS threads each are asked for, and this machine has "
            f"{cores()} cores, which carry {limit} threads at most; lower run.workers, or join a cluster with --address"
        )


def _quieten() -> None:
    """Keep Ray from printing deaths of processes to standard output, for which it has no setting.

    The trainer tells of them itself, with what becomes of them.
    """
    from ray._private import worker

    worker.print_to_stdstream = lambda data, ignore_prefix: log.debug("Ray: %s", data["lines"])  # noqa: ARG005


def _resources(environment: dict[str, str], *, local: bool) -> Cluster:
    import ray

    total = ray.cluster_resources()  # type: ignore[no-untyped-call]
    runtime_env = {} if local else {"env_vars": environment}
    return Cluster(cpus=total.get("CPU", 0.0), gpus=total.get("GPU", 0.0), local=local, runtime_env=runtime_env)


def total_cpus() -> float:
    """Return the CPUs of all nodes that are part of the cluster now."""
    import ray

    total: float = ray.cluster_resources().get("CPU", 0.0)  # type: ignore[no-untyped-call]
    return total


def choose_device(config: Config, workers: int, cluster: Cluster) -> Device:
    """Return what workers compute on; ResourceError if `cuda` was asked for and cannot be had."""
    asked = config.run.device
    if asked == "cpu":
        return "cpu"
    need = workers * config.run.gpus_per_worker
    if cluster.gpus < need:
        problem: str | None = f"{workers} workers need {need:g} GPUs in all, and Ray has {cluster.gpus:g}"
    elif cluster.local:
        problem = cuda_problem()
    else:
        problem = _remote_cuda_problem(config.run.gpus_per_worker)
    if problem is None:
        return "cuda"
    if asked == "auto":
        return "cpu"
    raise ResourceError(f"run.device is 'cuda', but {problem}; use run.device=cpu, or replace_lost that")


def _remote_cuda_problem(gpus: float) -> str | None:
    """Return what a process on a node with a GPU finds wrong with it."""
    import ray
    from ray.exceptions import RayError

    probe = ray.remote(num_gpus=gpus)(cuda_problem)
    reply = probe.remote()
    try:
        result: str | None = ray.get(reply, timeout=PROBE_S)
    except RayError as error:  # such as that all GPUs are in use by others for as long as that
        ray.cancel(reply, force=True)
        return f"a trial on one found no place, or failed ({type(error).__name__} within {PROBE_S:g} s)"
    return result


def check_cpus(config: Config, workers: int, cluster: Cluster) -> None:
    """Raise ResourceError if the cluster could never hold all workers."""
    need = workers * config.run.blas_threads
    if need > cluster.cpus:
        raise ResourceError(
            f"{workers} workers with {config.run.blas_threads} CPU each need {need} CPUs, and Ray has "
            f"{cluster.cpus:g} in all; lower run.workers, or add nodes"
        )
