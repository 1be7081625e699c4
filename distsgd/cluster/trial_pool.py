"""Processes on a cluster that each do one long task at a time and answer short calls meanwhile: those of a sweep."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from distsgd.cluster.actors import START_S
from distsgd.cluster.launching import CALLS_NOT_RECORDED
from distsgd.cluster.resources import Cluster
from distsgd.cluster.rpc import await_reply, end, has_arrived
from distsgd.config import Config
from distsgd.engine.plan import summation
from distsgd.errors import DistsgdError, ResourceError, counted

THREADS = 4
"""Calls that a process answers at once: its task, and short ones."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """What of a cluster each trial gets, and how many fit at once."""

    count: int
    cpus: float
    """CPUs that the process of a trial holds; 0 if its workers hold them."""
    threads: int
    """Threads that a trial without workers may use."""

    @classmethod
    def of(cls, config: Config, trials: int, cluster: Cluster) -> Share:
        """Return the share of each of so many trials; ResourceError if the cluster could not hold a single one.

        A trial with workers needs their CPUs, and with `run.device=cuda` their GPUs. One without needs
        `run.blas_threads` CPUs for each of `run.threads`; `auto` is one, or more if there are fewer trials than CPUs.
        """
        run = config.run
        workers = run.workers if isinstance(run.workers, int) else 0
        if workers:
            gpus = run.gpus_per_worker if run.device == "cuda" else 0.0
            fit = cluster.places(run.blas_threads, gpus) // workers
            of_each = counted(run.blas_threads, "CPU") + f" and {counted(gpus, 'GPU')}" * bool(gpus)
            _check(fit, f"{counted(workers, 'worker')} with {of_each} of a node each", cluster)
            return cls(count=min(fit, trials), cpus=0, threads=1)
        least = run.blas_threads * (run.threads if isinstance(run.threads, int) else 1)
        fit = cluster.places(least)
        _check(fit, f"{counted(least, 'CPU')} of one node", cluster)
        count = min(fit, trials)
        if isinstance(run.threads, int):
            return cls(count=count, cpus=least, threads=run.threads)
        most = min(int(max(cluster.cpus_of_nodes)) // run.blas_threads, summation(config).num_shards)
        fitting = (number for number in range(most, 1, -1) if cluster.places(number * run.blas_threads) >= count)
        threads = next(fitting, 1)
        return cls(count=count, cpus=threads * run.blas_threads, threads=threads)


def _check(fit: int, need: str, cluster: Cluster) -> None:
    if fit < 1:
        raise ResourceError(
            f"a trial needs {need}, and Ray has {cluster.described()}; lower run.workers, run.threads, "
            "run.blas_threads or run.gpus_per_worker, or add nodes"
        )


class Member:
    """A process of the pool."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor
        self.reply: Any = None
        """That of its task, while it has one."""
        self.short: Any = None
        """That of its newest short call, until it is taken."""


@dataclass(frozen=True)
class Done:
    """A task that has ended: its value, or the error that it or its process ended with."""

    member: Member
    value: Any = None
    error: DistsgdError | None = None


class TrialPool:
    """Processes with an object each of a class whose methods they run."""

    def __init__(
        self,
        make: Callable[..., Any],
        arguments: tuple[Any, ...],
        *,
        name: str,
        share: Share,
        runtime_env: dict[str, Any],
    ) -> None:
        """`name` is what Ray shows of the processes, with a number."""
        options = {"num_cpus": share.cpus, "runtime_env": runtime_env, "max_concurrency": THREADS} | CALLS_NOT_RECORDED
        self._kind, self._options, self._arguments = ray.remote(make), options, arguments
        self._cpus = share.cpus
        self._names = (f"{name}: process {number}" for number in itertools.count(1))
        self.members = [self._member() for _ in range(share.count)]

    def _member(self) -> Member:
        return Member(self._kind.options(name=next(self._names), **self._options).remote(*self._arguments))

    def need(self) -> str:
        """Return what processes wait for, in words: what one needs, and what the nodes have."""
        if not self._cpus:
            return "no process of a trial has started yet, though these need no CPUs of their own"
        cpus = counted(self._cpus, "CPU")
        free = ray.available_resources().get("CPU", 0.0)  # type: ignore[no-untyped-call]
        now = Cluster.connected({}, local=True).described()
        has = f"Ray has {now}, of which in all {counted(free, 'CPU')} {'is' if free == 1 else 'are'} free"
        return f"one needs {cpus} of one node, and {has}: add nodes, or end what else runs there"

    def begin(self, member: Member, method: str, *arguments: Any) -> None:
        """Begin a task."""
        member.reply = getattr(member.actor, method).remote(*arguments)

    def wait(self, timeout_s: float) -> list[Done]:
        """Return the tasks that have ended, after at most `timeout_s`."""
        busy = {member.reply: member for member in self.members if member.reply is not None}
        if not busy:
            time.sleep(timeout_s)
            return []
        ready, _ = ray.wait(list(busy), num_returns=1, timeout=timeout_s)
        ready += [reply for reply in busy if reply not in ready and has_arrived(reply)]
        return [self._done(busy[reply]) for reply in ready]

    def _done(self, member: Member) -> Done:
        reply, member.reply = member.reply, None
        try:
            return Done(member, await_reply(reply, "the process of a trial", START_S))
        except DistsgdError as error:
            return Done(member, error=error)

    def tell(self, member: Member, method: str, *arguments: Any) -> None:
        """Make a short call without waiting for it."""
        getattr(member.actor, method).remote(*arguments)

    def ask(self, member: Member, method: str) -> Any:
        """Return the reply to the short call before, and make it again; None if none has come yet, or if it failed."""
        found = None
        if member.short is not None:
            if not has_arrived(member.short):
                return None
            try:
                found = ray.get(member.short)
            except RayError:  # the end of the process ends its task as well, which is reported
                found = None
        member.short = getattr(member.actor, method).remote()
        return found

    def replace(self, member: Member) -> Member:
        """Start a new process in place of one that is lost, and return it."""
        end(member.actor, None)
        new = self.members[self.members.index(member)] = self._member()
        return new

    def close(self) -> None:
        """End all processes."""
        for member in self.members:
            end(member.actor, None)
        self.members.clear()
