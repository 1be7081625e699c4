"""The wait for the short job that looks, on the cluster, whether a run can be started there."""

from __future__ import annotations

import time
from collections.abc import Callable

from distsgd.cluster.job_client import JobClient
from distsgd.cluster.job_state import JobState
from distsgd.errors import JobError, ResourceError

LOOK_S = 180.0
"""Seconds within which the cluster must have looked whether the run can be started."""

PENDING_S = 90.0
"""Seconds within which the cluster must have started the job that looks, which asks for no resources."""

NOTICE_S = 10.0
"""Seconds between messages that say what is waited for."""

POLL_S = 0.25


def end_of(client: JobClient, job_id: str, notice: Callable[[str], None]) -> tuple[JobState, str]:
    """Return how a short job ends, and its output; `notice` is told of a job that takes long.

    It stays in the cluster's list of jobs: Ray lists one that is deleted within a second of its end as failed.
    ResourceError if it does not start within PENDING_S, or not end within LOOK_S; it is asked to stop then.
    """
    began = time.monotonic()
    noticed = began
    while (state := client.state(job_id)) is not None and not state.ended:
        now = time.monotonic()
        pending = state.status == "PENDING"
        if now - began > (PENDING_S if pending else LOOK_S):
            client.stop(job_id)
            raise ResourceError(_unstarted(job_id, state) if pending else _unended(job_id, state))
        if now - noticed > NOTICE_S:
            noticed = now
            notice(f"looking at the cluster: the job is {_described(state)} after {now - began:.0f} s")
        time.sleep(POLL_S)
    if state is None:
        raise JobError("the head of the cluster was started again while it looked at the run; try again")
    return state, client.log(job_id)


def _described(state: JobState) -> str:
    message = " ".join(state.message.split())[:300]
    return f"{state.status} ({message})" if message and state.status == "PENDING" else state.status


def _unstarted(job_id: str, state: JobState) -> str:
    return (
        f"the cluster has not started the job {job_id}, which looks whether the run can be started, within "
        f"{PENDING_S:g} s: it is {_described(state)}. Its workers do not start: see raylet.err and raylet.out "
        "in /tmp/ray/session_latest/logs on the head's machine (in the folder of --temp-dir if `ray start` had it). A "
        "frequent cause is a relative RAY_AUTH_TOKEN_PATH in the environment of `ray start`, whose workers run in "
        "another folder and do not find the token: stop the cluster and start it with an absolute path"
    )


def _unended(job_id: str, state: JobState) -> str:
    return (
        f"the cluster has not looked at the run within {LOOK_S:g} s: the job {job_id} is {_described(state)}; see its "
        "log on the dashboard, or try again when the cluster is less busy"
    )
