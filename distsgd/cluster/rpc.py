"""Ray calls from the driver to actors: waiting for replies, what a death or a silence comes to; ending actors."""

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

SERVER = "the parameter server"

TICK_S = 0.2
"""Seconds for which the driver waits for replies before it looks at signals and at the server."""

Tick = Callable[[], None]
"""Is called every TICK_S seconds while the driver waits: journals what is new, looks at signals."""


def no_tick() -> None:
    """Do nothing: outside of training, signals raise errors by themselves."""


def await_reply(reply: Any, who: str, timeout_s: float) -> Any:
    """Return the reply of a worker or an aggregator; its errors are raised as they were there.

    Raise WorkerLostError if it is dead, ResourceError if it does not reply in time.
    """
    return _get(reply, who, timeout_s, dead=WorkerLostError, silent=ResourceError)


def await_server(reply: Any, timeout_s: float) -> Any:
    """Return the reply of the parameter server; ServerLostError if it is dead or silent."""
    return _get(reply, SERVER, timeout_s, dead=ServerLostError, silent=ServerLostError)


def await_replies(calls: Sequence[tuple[Any, str]], timeout_s: float, tick: Tick) -> list[Any]:
    """Wait for the replies of several actors together and return them in order; `calls` are replies and names.

    In place of a reply that did not come there is the error that `await_reply` would have raised.
    """
    deadline, replies = time.monotonic() + timeout_s, [reply for reply, _ in calls]
    while replies and (left := deadline - time.monotonic()) > 0:
        if not ray.wait(replies, num_returns=len(replies), timeout=min(TICK_S, left), fetch_local=False)[1]:
            break
        tick()
    found: list[Any] = []
    for reply, who in calls:
        arrived = bool(ray.wait([reply], timeout=0, fetch_local=False)[0])
        try:
            if not arrived:
                raise ResourceError(f"{who} has not answered for {timeout_s:g} s")
            found.append(await_reply(reply, who, timeout_s))
        except (WorkerLostError, ResourceError) as error:
            found.append(error)
    return found


def has_arrived(reply: Any) -> bool:
    """Return whether a reply, or the news of its actor's death, is there."""
    return bool(ray.wait([reply], timeout=0)[0])


def _get(reply: Any, who: str, timeout_s: float, *, dead: type[DistsgdError], silent: type[DistsgdError]) -> Any:
    """Return the reply of an actor, or raise what it raised, or `dead` or `silent`."""
    try:
        return ray.get(reply, timeout=timeout_s)
    except RayTaskError as error:
        if isinstance(error.cause, DistsgdError):
            raise error.cause from None
        raise TrainingError(f"{who} failed: {error.cause!r}") from error
    except GetTimeoutError:
        raise silent(f"{who} has not answered for {timeout_s:g} s") from None
    except RayError as error:  # RayActorError, or ActorUnschedulableError, which is none, where a node is gone
        raise dead(f"{who} died ({_cause(error)})") from None


def _cause(error: RayError) -> str:
    """Return what Ray knows of a death in a few words: the last part of what it says."""
    text = " ".join(str(error).split())
    detail = text.rpartition("Worker exit detail:")[2] or text
    return detail.strip().partition(". ")[0].rstrip(".")[:160]


def end(actor: Any, location: Location | None) -> None:
    """End an actor, and its process too if it is known where: one that is stopped does not hear Ray."""
    ray.kill(actor)
    if location is not None:
        strategy = NodeAffinitySchedulingStrategy(node_id=location.node, soft=False)
        # Nobody waits for it: where the node is gone it never runs, and the process is gone with the node.
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
