"""Ray calls from the driver to actors: waiting for replies, errors for dead or unresponsive actors; killing actors."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from distsgd.cluster.actors import Location
from distsgd.errors import DistsgdError, ResourceError, ServerLostError, TrainingError, WorkerLostError
from distsgd.system.signals import stop_age_s

SERVER = "the parameter server"

TICK_S = 0.2
"""Seconds that the driver waits for replies between two ticks."""

STOPPING_S = 10.0
"""Seconds that the driver waits for an answer after a signal to stop: only a process that hangs takes longer."""

Tick = Callable[[], None]
"""Called every TICK_S seconds while the driver waits: writes new journal records, checks for signals."""


def no_tick() -> None:
    """Do nothing: outside of training, signals raise errors by themselves."""


class _Wait:
    """A wait that begins now and takes `timeout_s`, or STOPPING_S after a signal to stop."""

    def __init__(self, timeout_s: float) -> None:
        self._began, self._timeout_s = time.monotonic(), timeout_s

    def left_s(self) -> float:
        """Return the seconds that are left, at least 0."""
        waited = time.monotonic() - self._began
        since_stop = min(waited, stop_age_s())
        return max(0.0, min(self._timeout_s - waited, STOPPING_S - since_stop))

    def silence(self, who: str) -> str:
        """Return what to report if there was no reply."""
        waited = time.monotonic() - self._began
        shortened = ", which is how long a run waits after a signal to stop" if waited < self._timeout_s else ""
        return f"{who} has not answered for {round(min(waited, self._timeout_s), 1):g} s{shortened}"


def await_reply(reply: Any, who: str, timeout_s: float) -> Any:
    """Return the reply of a worker or an aggregator; re-raise its errors.

    Raise WorkerLostError if it is dead, ResourceError if it does not reply in time.
    """
    return _get(reply, who, timeout_s, dead=WorkerLostError, silent=ResourceError)


def await_server(reply: Any, timeout_s: float) -> Any:
    """Return the reply of the parameter server; ServerLostError if it is dead or unresponsive."""
    return _get(reply, SERVER, timeout_s, dead=ServerLostError, silent=ServerLostError)


def await_replies(calls: Sequence[tuple[Any, str]], timeout_s: float, tick: Tick) -> list[Any]:
    """Wait for the replies of several actors together and return them in order; `calls` are replies and names.

    A missing reply is replaced by the error that `await_reply` would have raised.
    """
    wait, replies = _Wait(timeout_s), [reply for reply, _ in calls]
    while replies and (left := wait.left_s()) > 0:
        if not ray.wait(replies, num_returns=len(replies), timeout=min(TICK_S, left), fetch_local=False)[1]:
            break
        tick()
    found: list[Any] = []
    for reply, who in calls:
        arrived = bool(ray.wait([reply], timeout=0, fetch_local=False)[0])
        try:
            if not arrived:
                raise ResourceError(wait.silence(who))
            found.append(await_reply(reply, who, timeout_s))
        except (WorkerLostError, ResourceError) as error:
            found.append(error)
    return found


def has_arrived(reply: Any) -> bool:
    """Return whether a reply, or the error of a dead actor, has arrived."""
    return bool(ray.wait([reply], timeout=0)[0])


def _get(reply: Any, who: str, timeout_s: float, *, dead: type[DistsgdError], silent: type[DistsgdError]) -> Any:
    """Return the reply of an actor, or raise what it raised, or `dead` or `silent`.

    Signals to stop are looked at until there is a reply. Fetching it from another node then takes one call, since each
    further one would begin again.
    """
    wait = _Wait(timeout_s)
    try:
        while (left := wait.left_s()) > 0 and not ray.wait([reply], timeout=min(TICK_S, left), fetch_local=False)[0]:
            pass
        return ray.get(reply, timeout=wait.left_s())
    except RayTaskError as error:
        if isinstance(error.cause, DistsgdError):
            raise error.cause from None
        raise TrainingError(f"{who} failed: {error.cause!r}") from error
    except GetTimeoutError:
        raise silent(wait.silence(who)) from None
    except RayError as error:  # RayActorError, or ActorUnschedulableError, which is none, where a node is gone
        raise dead(f"{who} died ({_cause(error)})") from None


def _cause(error: RayError) -> str:
    """Return the cause of a death in a few words, from the end of Ray's message."""
    text = " ".join(str(error).split())
    detail = text.rpartition("Worker exit detail:")[2] or text
    return detail.strip().partition(". ")[0].rstrip(".")[:160]


def end(actor: Any, location: Location | None) -> None:
    """Kill an actor, and its process if its location is known: a stopped process ignores Ray."""
    ray.kill(actor)
    if location is not None:
        strategy = NodeAffinitySchedulingStrategy(node_id=location.node, soft=False)
        # Do not wait for it: if the node is dead, it never runs, and the process is dead too.
        ray.remote(end_process).options(num_cpus=0, scheduling_strategy=strategy, max_retries=0).remote(location.pid)


def end_process(pid: int) -> None:
    """Kill a process of this node if it is one of Ray's actors."""
    with suppress(OSError):
        if b"Actor" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)


def alive_nodes() -> set[str]:
    """Return the nodes that are part of the cluster."""
    with suppress(RayError):
        return {found["NodeID"] for found in ray.nodes() if found["Alive"]}  # type: ignore[no-untyped-call]
    return set()
