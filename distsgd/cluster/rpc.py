"""Ray calls from the driver to actors: what an answer, no answer, or a death comes to; and ending actors."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from distsgd.cluster.actors import Location
from distsgd.errors import DistsgdError, ResourceError, ServerLostError, TrainingError, WorkerLostError

SERVER = "the parameter server"


def answer(reply: Any, who: str, timeout_s: float) -> Any:
    """Return what a worker or an aggregator answers; its errors come as they were raised there.

    Raises WorkerLostError if it is dead, ResourceError if it does not answer in time.
    """
    return _get(reply, who, timeout_s, dead=WorkerLostError, silent=ResourceError)


def ask_server(reply: Any, timeout_s: float) -> Any:
    """Return what the parameter server answers; ServerLostError if it is dead or silent."""
    return _get(reply, SERVER, timeout_s, dead=ServerLostError, silent=ServerLostError)


def _get(reply: Any, who: str, timeout_s: float, *, dead: type[DistsgdError], silent: type[DistsgdError]) -> Any:
    """Return what an actor answers, or raise what it raised, or `dead` or `silent`."""
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
    """End an actor, if there is one, and its process too if that does not listen, as a stopped one does not."""
    if actor is None:
        return
    ray.kill(actor)
    if location is not None:
        strategy = NodeAffinitySchedulingStrategy(node_id=location.node, soft=False)
        # Nobody waits for it: where the node is gone it never runs, and the process is gone with it.
        ray.remote(end_process).options(num_cpus=0, scheduling_strategy=strategy, max_retries=0).remote(location.pid)


def end_process(pid: int) -> None:
    """Kill a process of this node if it is one of Ray's actors."""
    with suppress(OSError):
        if b"Actor" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)


def is_alive(node: str) -> bool:
    """Return whether a node is part of the cluster."""
    with suppress(RayError):
        return any(found["NodeID"] == node and found["Alive"] for found in ray.nodes())  # type: ignore[no-untyped-call]
    return False
