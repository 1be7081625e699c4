"""A local Ray for one process, with its files in a folder of its own."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import resource
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace

from distsgd.cluster.joining import first_lines, leave
from distsgd.cluster.resources import cores
from distsgd.config import Config
from distsgd.errors import DistsgdError, ResourceError
from distsgd.system.memory import memory_limit
from distsgd.system.scratch import scratch_folder
from distsgd.system.signals import signals_kept_from_ray
from distsgd.system.streams import standard_streams

STORE_RESERVE = 512 * 2**20
"""Bytes of a local object store besides the rows: parameters and gradients in transit, and Ray's minimum."""

SHARED_MEMORY = "/dev/shm"
"""Where Ray keeps its object store."""

DESCRIPTORS = 256
"""Open files that each of Ray's processes must be allowed."""


@dataclass(frozen=True)
class LocalRay:
    """What a local Ray is started with."""

    environment: dict[str, str]
    """Environment variables of all its processes."""
    cpus: int
    data_bytes: int
    """Bytes of rows that it has room for."""

    @classmethod
    def for_run(cls, config: Config, environment: dict[str, str], data_bytes: int) -> LocalRay:
        """Return what a run with `data_bytes` of rows needs."""
        workers = config.run.workers if isinstance(config.run.workers, int) else 0
        return cls(environment, max(cores(), workers * config.run.blas_threads), data_bytes)

    def with_room(self) -> LocalRay:
        """Return the same with room for more rows, as later runs may have; memory is taken where rows are put only."""
        try:
            room = min(memory_limit() // 4, shutil.disk_usage(SHARED_MEMORY).free // 2)
        except OSError:  # there is no such folder
            return self
        return replace(self, data_bytes=max(self.data_bytes, room - STORE_RESERVE))

    def holds(self, other: LocalRay) -> bool:
        """Return whether a run that needs `other` can use this one with the same result."""
        enough = self.cpus >= other.cpus and self.data_bytes >= other.data_bytes
        return enough and self.environment == other.environment


@contextlib.contextmanager
def start(wanted: LocalRay) -> Iterator[None]:
    """Start a local Ray; end it afterwards.

    Raise ResourceError if it does not start.
    """
    # Ray turns token authentication on for a local cluster. With a token of this process's own it need not write one
    # to the home directory, which would change what a later `ray start` does.
    if "RAY_AUTH_TOKEN_PATH" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    _check_descriptors()
    # Ray gives its workers a low priority in favour of its own processes, which a step does not need.
    niceness = {"RAY_worker_niceness": os.environ.get("RAY_worker_niceness", "0")}
    with scratch_folder() as folder, _lasting_thread() as do, contextlib.ExitStack() as stack:
        stack.callback(_leave, os.getpid())
        with _environment_set(wanted.environment | niceness):
            do(lambda: _initialize(str(folder), wanted))
        yield


@contextlib.contextmanager
def _lasting_thread() -> Iterator[Callable[[Callable[[], None]], None]]:
    """Yield a function that does something in a thread that lives as long as the context: the main one, or a new one.

    Linux kills Ray's processes when the thread ends that has started them, and Ray then ends this process.
    """
    if threading.current_thread() is threading.main_thread():
        yield lambda work: work()
        return
    done, over = Future[None](), threading.Event()

    def live(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            done.set_exception(error)
        else:
            done.set_result(None)
            over.wait()

    def do(work: Callable[[], None]) -> None:
        # As a daemon it outlives the handlers at the interpreter's exit, which may be what ends Ray.
        threading.Thread(target=live, args=(work,), name="ray", daemon=True).start()
        done.result()

    try:
        yield do
    finally:
        over.set()


@contextlib.contextmanager
def _loopback() -> Iterator[None]:
    """Have Ray take the loopback address as this node's meanwhile, so that none of its ports is open to the network.

    It does so by itself where it supports no clusters, and has no other switch: `_node_ip_address` is replaced by an
    address of the network, even if it is the loopback one.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _leave(owner: int) -> None:
    """End Ray, unless this is a process that was forked from its owner."""
    if os.getpid() == owner:
        leave()


def _initialize(folder: str, wanted: LocalRay) -> None:
    import ray

    try:
        with signals_kept_from_ray(), standard_streams(), _loopback():
            ray.init(
                address="local",
                num_cpus=wanted.cpus,
                object_store_memory=int(1.1 * wanted.data_bytes) + STORE_RESERVE,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _temp_dir=folder,
            )
    except DistsgdError:
        raise
    except Exception as error:  # which is what Ray raises if its processes take too long
        raise ResourceError(
            f"a local Ray with room for {wanted.data_bytes:,} bytes of rows could not be started: "
            f"{first_lines(error)}; {_remedy(error)}, or train without Ray (--workers 0)"
        ) from None


def _remedy(error: Exception) -> str:
    """Return what to do about an error at the start of Ray."""
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return f"close files, or allow this process more than {limit} (ulimit -n)"
    if "timed out" in str(error):
        return "try again when this machine is less busy"
    return "make room in memory and in /dev/shm"


def _check_descriptors() -> None:
    """Raise ResourceError if Ray's processes could not open enough files: they would hang without an error."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]  # up to which Ray raises the limit that is in force
    if limit != resource.RLIM_INFINITY and limit < DESCRIPTORS:
        raise ResourceError(
            f"processes may have {limit} open files here, and those of a local Ray need {DESCRIPTORS}; raise that "
            "limit (ulimit -n), or train without Ray (--workers 0)"
        )


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
