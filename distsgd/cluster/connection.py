"""The connection of a process to Ray: made by the first run that needs it, shared by all, ended with the last one."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from enum import Enum, auto
from functools import partial

from distsgd.cluster.joining import join, leave
from distsgd.cluster.local_ray import start
from distsgd.cluster.resources import Cluster, check_cpus, check_local, default_workers
from distsgd.config import Config
from distsgd.errors import ResourceError

log = logging.getLogger(__name__)

Connect = Callable[[contextlib.ExitStack], None]
"""Connects this process to Ray; whatever ends the connection is put on the stack."""


class Use(Enum):
    """How a run came by the process's connection to Ray."""

    NONE = auto()
    """There is none."""
    MADE = auto()
    """The run has made it."""
    SHARED = auto()
    """It was there: the caller's, or that of another run in another thread."""


class ProcessConnection:
    """Ray has one connection per process; this counts the runs that use one that a run has made."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs = 0
        self._ending = contextlib.ExitStack()
        self._ever_made = self._forked = False
        os.register_at_fork(after_in_child=self._note_fork)

    def _note_fork(self) -> None:
        """Start afresh in a child process, in which Ray's threads are missing if Ray was ever used in the parent."""
        self._forked = self._forked or self._ever_made or _is_initialized()
        self._lock, self._runs, self._ending = threading.Lock(), 0, contextlib.ExitStack()

    @contextlib.contextmanager
    def used(self, connect: Connect | None) -> Iterator[Use]:
        """Use the connection while the context lasts; if there is none, make it with `connect` if that is given.

        Raise ResourceError in a process that was forked after Ray had been used: Ray would hang there.
        """
        if self._forked:
            raise ResourceError(
                "this process was forked from one that had used Ray, which does not work in such a process; start it "
                "with multiprocessing.get_context('spawn'), or train in it without Ray (run.workers=0)"
            )
        with self._lock:
            use, counted = self._acquire(connect)
        try:
            yield use
        finally:
            if counted:
                self._release()

    def _acquire(self, connect: Connect | None) -> tuple[Use, bool]:
        """Return how the connection is had, and whether this run counts as one that it is kept for."""
        if self._runs == 0 and _is_initialized():
            self._ever_made = True
            return Use.SHARED, False  # the caller's, who ends it
        use = Use.SHARED
        if self._runs == 0:
            if connect is None:
                return Use.NONE, False
            self._ever_made = True
            with contextlib.ExitStack() as stack:
                connect(stack)
                self._ending = stack.pop_all()
            use = Use.MADE
        self._runs += 1
        return use, True

    def _release(self) -> None:
        with self._lock:
            self._runs -= 1
            if self._runs == 0:
                self._ending.close()


CONNECTION = ProcessConnection()


def address_of(config: Config) -> str | None:
    """Return the address of the cluster to join, or None for a local Ray."""
    address = config.run.address or os.environ.get("RAY_ADDRESS") or None
    return None if address == "local" else address


@contextlib.contextmanager
def joined(config: Config, environment: dict[str, str]) -> Iterator[Cluster | None]:
    """Join the cluster that the configuration or RAY_ADDRESS names and yield it; None if a local Ray is to be started.

    A Ray that this process is connected to already is used, whatever the address, and the caller's is left running.
    Raise ResourceError if the cluster cannot be reached or cannot hold what is asked of it.
    """
    if config.run.workers == 0:
        check_local(config)
        yield None
        return
    address = address_of(config)
    with CONNECTION.used(None if address is None else partial(_join, address)) as use:
        if use is Use.NONE:
            check_local(config)
            yield None
            return
        yield _checked(config, environment)


@contextlib.contextmanager
def started(config: Config, environment: dict[str, str], *, data_bytes: int) -> Iterator[Cluster]:
    """Start a local Ray with room for `data_bytes` of rows, whose processes get `environment`, and yield it.

    If a run in another thread has started one meanwhile, both use that. Raise ResourceError if it does not start.
    """
    with CONNECTION.used(partial(_start, config, environment, data_bytes)) as use:
        made = use is Use.MADE
        yield Cluster.connected(environment, local=True) if made else _checked(config, environment)


def _checked(config: Config, environment: dict[str, str]) -> Cluster:
    """Return the cluster that this process is connected to; ResourceError if it could never hold the run's workers."""
    cluster = Cluster.connected(environment, local=False)
    check_cpus(config, default_workers(config, cluster.cpus), cluster)
    return cluster


def _join(address: str, stack: contextlib.ExitStack) -> None:
    stack.callback(leave)
    join(address)
    stack.enter_context(_quiet())


def _start(config: Config, environment: dict[str, str], data_bytes: int, stack: contextlib.ExitStack) -> None:
    stack.enter_context(start(config, environment, data_bytes=data_bytes))
    stack.enter_context(_quiet())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Ray from printing deaths of processes to standard output, for which it has no setting.

    The trainer tells of them itself, with what becomes of them.
    """
    from ray._private import worker

    printing = worker.print_to_stdstream
    worker.print_to_stdstream = lambda data, ignore_prefix: log.debug("Ray: %s", data["lines"])  # noqa: ARG005
    try:
        yield
    finally:
        worker.print_to_stdstream = printing


def _is_initialized() -> bool:
    """Return whether this process is connected to a Ray, without importing it to find out."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())
