"""Joining a Ray cluster or starting a local one, and refusing what its resources cannot carry."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
from collections.abc import Iterator
from dataclasses import dataclass

from distsgd.backend import Device, cuda_problem
from distsgd.config import Config
from distsgd.errors import ResourceError

CONNECT_S = 3.0
"""Seconds in which a cluster's address must accept a connection."""

PER_CORE = 4
"""Workers that a local run may put on one core; more would only take turns, each with 200 MB of its own."""

STORE_RESERVE = 512 * 2**20
"""Bytes of a local object store beside the rows: parameters and gradients on their way, and Ray's minimum."""


@dataclass(frozen=True)
class Cluster:
    """The resources of the Ray that this process is connected to."""

    cpus: float
    gpus: float
    local: bool


def address_of(config: Config) -> str | None:
    """Return the address of the cluster to join, or None for a local Ray."""
    address = config.run.address or os.environ.get("RAY_ADDRESS") or None
    return None if address == "local" else address


def cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0))


def default_workers(config: Config, cpus: float) -> int:
    """Return the number of workers that `auto` stands for where there are `cpus`."""
    return max(1, min(int(cpus) // config.run.blas_threads, config.train.num_shards))


@contextlib.contextmanager
def connected(config: Config, *, data_bytes: int, environment: dict[str, str]) -> Iterator[Cluster]:
    """Join the cluster that the configuration names, or start a local one with room for `data_bytes` of rows.

    Local worker processes get `environment`. A Ray that the caller has already started is used and left running.
    Raises ResourceError if the cluster cannot be reached.
    """
    import ray

    if ray.is_initialized():
        yield _resources(local=False)
        return
    address = address_of(config)
    try:
        if address is None:
            _start_local(config, data_bytes, environment)
        else:
            _join(address)
        yield _resources(local=address is None)
    finally:
        ray.shutdown()


def _start_local(config: Config, data_bytes: int, environment: dict[str, str]) -> None:
    import ray

    # A token of this process's own keeps other users of the machine out. Without one, Ray would write a token file
    # to the home directory, which changes what a later `ray start` does.
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    if os.environ["RAY_AUTH_MODE"] == "token":
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    asked = config.run.workers if isinstance(config.run.workers, int) else 0
    limit = PER_CORE * cores()
    if asked > limit:
        raise ResourceError(
            f"{asked} workers are asked for, and this machine has {cores()} cores, which carry {limit} at most; "
            "lower run.workers, or join a cluster with --address"
        )
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)  # Ray's processes inherit it
    try:
        ray.init(
            address="local",
            num_cpus=max(cores(), asked * config.run.blas_threads),
            object_store_memory=int(1.1 * data_bytes) + STORE_RESERVE,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _join(address: str) -> None:
    import ray

    remedy = "start a cluster with `ray start --head`, correct the address, or leave it out to train on this machine"
    if address.startswith("ray://"):
        raise ResourceError(
            f"the Ray address {address!r} is a Ray Client's; distsgd's driver runs on a node of the cluster: "
            "submit it with `ray job submit`"
        )
    if ":" in address:
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
        except (OSError, ValueError) as error:
            raise ResourceError(f"no Ray cluster answers at {address!r} ({error}); {remedy}") from None
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError, AssertionError) as error:
        raise ResourceError(f"the Ray cluster at {address!r} cannot be joined: {_first_lines(error)}; {remedy}") from None


def _first_lines(error: Exception) -> str:
    return " ".join(line.strip() for line in str(error).splitlines()[:3]).rstrip(".") or type(error).__name__


def _resources(*, local: bool) -> Cluster:
    import ray

    total = ray.cluster_resources()
    return Cluster(cpus=total.get("CPU", 0.0), gpus=total.get("GPU", 0.0), local=local)


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
    raise ResourceError(f"run.device is 'cuda', but {problem}; use run.device=cpu, or mend that")


def _remote_cuda_problem(gpus: float) -> str | None:
    """Return what a process on a node with a GPU finds wrong with it."""
    import ray

    probe = ray.remote(num_gpus=gpus)(cuda_problem)
    result: str | None = ray.get(probe.remote(), timeout=60)
    return result


def check_cpus(config: Config, workers: int, cluster: Cluster) -> None:
    """Raise ResourceError if the cluster could never hold all workers."""
    need = workers * config.run.blas_threads
    if need > cluster.cpus:
        raise ResourceError(
            f"{workers} workers with {config.run.blas_threads} CPU each need {need} CPUs, and Ray has "
            f"{cluster.cpus:g} in all; lower run.workers, or add nodes"
        )
