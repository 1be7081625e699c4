"""The connection of a process to Ray: opened by the first run that needs it, shared, closed after the last one.

A session keeps it open in between, so that further runs need not start Ray again.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from enum import Enum, auto
from typing import Any, Self

from distsgd.cluster.joining import join, leave
from distsgd.cluster.local_ray import LocalRay, start
from distsgd.cluster.resources import Cluster, check_cpus, check_local, default_workers
from distsgd.config import Config
from distsgd.errors import RefusedError, ResourceError, Stopped

log = logging.getLogger(__name__)

Connect = Callable[[Any, contextlib.ExitStack], None]
"""Joins the address or starts the Ray that it is given; pushes the callbacks that close the connection on the stack."""


class Use(Enum):
    """How a run got its connection to Ray."""

    NONE = auto()
    """There is none."""
    MADE = auto()
    """The run has opened it."""
    KEPT = auto()
    """A session has kept the local Ray that an earlier run had started, and no other run uses it."""
    SHARED = auto()
    """It existed already: opened by the caller, or by a run in another thread."""


class ProcessConnection:
    """Ray has one connection per process; this counts the runs and sessions that use one that a run has opened."""

    def __init__(self) -> None:
        self._forked = self._ever_made = False
        self._reset()
        os.register_at_fork(after_in_child=self._note_fork)
        atexit.register(self._end_at_exit)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._runs = self._sessions = 0
        self._made: str | LocalRay | None = None
        """The address that was joined or the Ray that was started, while there is such a connection."""
        self._ending = contextlib.ExitStack()
        self._failed = False

    def _note_fork(self) -> None:
        """Reset the state in a child process, in which Ray's threads are missing if Ray was ever used in the parent."""
        self._forked = self._forked or self._ever_made or _is_initialized()
        self._reset()

    @contextlib.contextmanager
    def used(self, wanted: str | LocalRay | None, connect: Connect | None) -> Iterator[Use]:
        """Use the connection within the context; if there is none, open it with `connect` if given.

        `wanted` is the address to join, or the Ray to start; a kept connection that no run uses is replaced if it is
        another one. Raise ResourceError in a process that was forked after Ray had been used: Ray would hang there.
        """
        if self._forked:
            raise ResourceError(
                "this process was forked from one that had used Ray, which does not work in such a process; start it "
                "with multiprocessing.get_context('spawn'), or train in it without Ray (run.workers=0)"
            )
        with self._lock:
            use, counted = self._acquire(wanted, connect)
        try:
            yield use
        except (RefusedError, Stopped, KeyboardInterrupt):
            raise
        except BaseException:
            self._failed = True  # perhaps because of Ray: a session does not keep it
            raise
        finally:
            if counted:
                self._release()

    def _acquire(self, wanted: str | LocalRay | None, connect: Connect | None) -> tuple[Use, bool]:
        """Return how the run got the connection, and whether it is counted as a user of it."""
        if self._made is not None and self._runs == 0 and not _is_initialized():
            self._close()  # the caller has called ray.shutdown() within a session
        if self._made is None and _is_initialized():
            self._ever_made = True
            return Use.SHARED, False  # the caller's, which the caller closes
        use = Use.SHARED
        if self._runs == 0 and isinstance(self._made, LocalRay):
            if wanted is None:
                return Use.NONE, False  # whether it suits is known once the rows are
            use = Use.KEPT
        if self._runs == 0 and self._made is not None and wanted is not None and not _suits(self._made, wanted):
            self._close()
        if self._made is None:
            if connect is None or wanted is None:
                return Use.NONE, False
            self._ever_made = True
            if self._sessions and isinstance(wanted, LocalRay):
                wanted = wanted.with_room()
            with contextlib.ExitStack() as stack:
                connect(wanted, stack)
                self._ending = stack.pop_all()
            self._made, use = wanted, Use.MADE
        self._runs += 1
        return use, True

    def _release(self) -> None:
        with self._lock:
            self._runs -= 1
            if self._runs == 0 and (self._sessions == 0 or self._failed):
                self._close()
            elif self._runs == 0:
                gc.collect()  # rows in the object store are held until nothing refers to them

    def _close(self) -> None:
        self._made, self._failed = None, False
        self._ending.close()

    def keep(self) -> Callable[[], None]:
        """Keep the connection until the returned function is called, which does nothing in a forked process."""
        owner = os.getpid()

        def let_go() -> None:
            if os.getpid() != owner:
                return
            with self._lock:
                self._sessions -= 1
                if self._sessions == 0 and self._runs == 0:
                    self._close()

        with self._lock:
            self._sessions += 1
        return let_go

    def _end_at_exit(self) -> None:
        """Close a connection that a session has kept until the interpreter exits."""
        if self._made is not None and self._runs == 0:
            self._close()


def _suits(made: str | LocalRay, wanted: str | LocalRay) -> bool:
    """Return whether a run that wants to join or start `wanted` can use `made`."""
    if isinstance(made, LocalRay) and isinstance(wanted, LocalRay):
        return made.holds(wanted)
    return isinstance(wanted, LocalRay) or made == wanted  # a cluster that was joined is used until the session ends


CONNECTION = ProcessConnection()


class RaySession:
    """Keeps the Ray that the first run within it starts or joins, until it is closed or the interpreter exits."""

    def __init__(self) -> None:
        self._let_go: Callable[[], None] | None = CONNECTION.keep()

    def close(self) -> None:
        """End the Ray that was kept, as soon as no run uses it; a second call has no effect."""
        let_go, self._let_go = self._let_go, None
        if let_go is not None:
            let_go()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def session() -> RaySession:
    """Keep one Ray for several runs: within `with distsgd.session():`, only the first run waits for Ray to start.

    In a notebook, where the runs are in several cells, call `close()` at the end, or leave that to the kernel's exit.
    Ray is started with room for the rows of larger runs: a quarter of the memory, at most half of what is free in
    /dev/shm. A run that needs more than that, more processes or other BLAS settings than Ray was started with starts it
    again, and a failed run ends it. Runs without Ray (`run.workers=0`) are not affected.
    """
    return RaySession()


def address_of(config: Config) -> str | None:
    """Return the address of the cluster to join, or None for a local Ray."""
    address = config.run.address or os.environ.get("RAY_ADDRESS") or None
    return None if address == "local" else address


@contextlib.contextmanager
def joined(config: Config, environment: dict[str, str]) -> Iterator[Cluster | None]:
    """Join the cluster that the configuration or RAY_ADDRESS names and yield it; None if a local Ray is to be started.

    A Ray that this process is connected to already is used, whatever the address, and the caller's is left running.
    Raise ResourceError if the cluster cannot be reached or has too few resources.
    """
    if config.run.workers == 0:
        check_local(config)
        yield None
        return
    address = address_of(config)
    with CONNECTION.used(address, None if address is None else _join) as use:
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
    wanted = LocalRay.for_run(config, environment, data_bytes)
    with CONNECTION.used(wanted, _start) as use:
        own = use in (Use.MADE, Use.KEPT)
        yield Cluster.connected(environment, local=True) if own else _checked(config, environment)


def _checked(config: Config, environment: dict[str, str]) -> Cluster:
    """Return the cluster that this process is connected to; ResourceError if it could never hold the run's workers."""
    cluster = Cluster.connected(environment, local=False)
    check_cpus(config, default_workers(config, cluster.cpus), cluster)
    return cluster


def _join(address: str, stack: contextlib.ExitStack) -> None:
    stack.callback(leave)
    join(address)
    stack.enter_context(_quiet())


def _start(wanted: LocalRay, stack: contextlib.ExitStack) -> None:
    stack.enter_context(start(wanted))
    stack.enter_context(_quiet())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Ray from printing deaths of processes to standard output, for which it has no setting.

    The trainer reports them itself, with their consequences.
    """
    from ray._private import worker

    printing = worker.print_to_stdstream
    worker.print_to_stdstream = lambda data, ignore_prefix: log.debug("Ray: %s", data["lines"])  # noqa: ARG005
    try:
        yield
    finally:
        worker.print_to_stdstream = printing


def _is_initialized() -> bool:
    """Return whether this process is connected to Ray, without importing it."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())
