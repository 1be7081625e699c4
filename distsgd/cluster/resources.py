"""The resources of a Ray cluster or this machine: CPUs, GPUs and the number of workers that fit."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from typing import Any

from distsgd.config import Config
from distsgd.core.backend import Device, array_module, cuda_problem
from distsgd.engine.plan import summation
from distsgd.errors import ResourceError, counted

PER_CORE = 4
"""Maximum number of worker threads per core in a local run; more only cost memory, 200 MB per worker."""

PROBE_S = 60.0
"""Timeout of the GPU check on a node with a GPU, in seconds."""


@dataclass(frozen=True)
class Cluster:
    """The resources of the Ray that this process is connected to."""

    cpus: float
    gpus: float
    cpus_of_nodes: tuple[float, ...]
    """A process has to fit on one of them."""
    gpus_of_nodes: tuple[float, ...]
    """In the same order."""
    local: bool
    """Whether this run has started it, so that its processes have the run's environment variables already."""
    runtime_env: dict[str, Any]
    """Ray's `runtime_env` of the run's actors."""

    @classmethod
    def connected(cls, environment: dict[str, str], *, local: bool) -> Cluster:
        """Return the resources of the cluster that this process is connected to."""
        import ray

        total = ray.cluster_resources()  # type: ignore[no-untyped-call]
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        return cls(
            cpus=total.get("CPU", 0.0),
            gpus=total.get("GPU", 0.0),
            cpus_of_nodes=tuple(resources.get("CPU", 0.0) for resources in nodes),
            gpus_of_nodes=tuple(resources.get("GPU", 0.0) for resources in nodes),
            local=local,
            runtime_env={} if local else {"env_vars": environment},
        )

    def places(self, cpus: int, gpus: float = 0.0) -> int:
        """Return how many processes with so many CPUs and GPUs each fit on the nodes together."""
        of_cpus = [int(of_node // cpus) for of_node in self.cpus_of_nodes]
        if not gpus:
            return sum(of_cpus)
        if gpus < 1:  # a fraction is of a single GPU
            of_gpus = [int(of_node) * int(1 / gpus + 1e-6) for of_node in self.gpus_of_nodes]
        else:
            of_gpus = [int(of_node // gpus) for of_node in self.gpus_of_nodes]
        return sum(map(min, of_cpus, of_gpus))

    def described(self) -> str:
        """Return what it has, and what its nodes have, in words."""
        kinds = Counter(zip(self.cpus_of_nodes, self.gpus_of_nodes, strict=True))
        nodes = [f"{count} with {_amounts(*kind)}" for kind, count in kinds.items()]
        several = len(self.cpus_of_nodes) != 1
        return f"{_amounts(self.cpus, self.gpus)} on {counted(len(self.cpus_of_nodes), 'node')}" + (
            f" ({', '.join(nodes)})" if several else ""
        )


def _amounts(cpus: float, gpus: float) -> str:
    return f"{counted(cpus, 'CPU')} and {counted(gpus, 'GPU')}"


def cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0))


def total_cpus() -> float:
    """Return the CPUs of all nodes that are part of the cluster now."""
    import ray

    total: float = ray.cluster_resources().get("CPU", 0.0)  # type: ignore[no-untyped-call]
    return total


def default_workers(config: Config, cpus: float) -> int:
    """Return `run.workers`, or the value of `auto` for `cpus` CPUs."""
    if isinstance(config.run.workers, int):
        return config.run.workers
    return max(1, min(int(cpus) // config.run.blas_threads, summation(config).num_shards))


def check_local(config: Config) -> None:
    """Raise ResourceError if this machine lacks the requested GPU, or has too few cores."""
    if config.run.device == "cuda":
        array_module("cuda")
    workers, limit = config.run.workers, PER_CORE * cores()
    if isinstance(workers, int) and workers * config.run.blas_threads > limit:
        raise ResourceError(
            f"{counted(workers, 'worker')} with {counted(config.run.blas_threads, 'BLAS thread')} each are asked for, "
            f"and this machine has {counted(cores(), 'core')}, which carry {counted(limit, 'thread')} at most; "
            "lower run.workers, or join a cluster with --address"
        )


def check_cpus(config: Config, workers: int, cluster: Cluster) -> None:
    """Raise ResourceError if the cluster could never hold all workers."""
    need = workers * config.run.blas_threads
    if need > cluster.cpus:
        raise ResourceError(
            f"{counted(workers, 'worker')} with {counted(config.run.blas_threads, 'CPU')} each need "
            f"{counted(need, 'CPU')}, and Ray has {cluster.cpus:g} in all; lower run.workers, or add nodes"
        )


def choose_device(config: Config, workers: int, cluster: Cluster) -> Device:
    """Return what workers compute on; ResourceError if `cuda` was requested and is unavailable."""
    asked = config.run.device
    if asked == "cpu":
        return "cpu"
    need = workers * config.run.gpus_per_worker
    if cluster.gpus < need:
        of_all = f"{counted(workers, 'worker')} need{'s' * (workers == 1)} {counted(need, 'GPU')} in all"
        problem: str | None = f"{of_all}, and Ray has {cluster.gpus:g}"
    elif cluster.local:
        problem = cuda_problem()
    else:
        problem = _remote_cuda_problem(config.run.gpus_per_worker)
    if problem is None:
        return "cuda"
    if asked == "auto":
        return "cpu"
    raise ResourceError(f"run.device is 'cuda', but {problem}; use run.device=cpu, or make CUDA work there")


def _remote_cuda_problem(gpus: float) -> str | None:
    """Return why a process on a node with a GPU cannot use it, or None."""
    import ray
    from ray.exceptions import RayError

    probe = ray.remote(num_gpus=gpus)(cuda_problem)
    reply = probe.remote()
    try:
        result: str | None = ray.get(reply, timeout=PROBE_S)
    except RayError as error:  # for instance if all GPUs are in use by others for PROBE_S
        ray.cancel(reply, force=True)
        return f"a trial on one found no place, or failed ({type(error).__name__} within {PROBE_S:g} s)"
    return result
