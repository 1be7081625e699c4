"""A `RayJob` that is in Kubernetes: its state, its log, and its end."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from distsgd.cluster.job_state import JobState, NotReachedError
from distsgd.errors import JobError
from distsgd.submission.commands import CommandError, output_of, run

ENDED = ("Complete", "Failed", "ValidationFailed")
"""Values of `jobDeploymentStatus` that are final."""

EXIT_CODE = re.compile(r"failed with exit code (-?\d+)")
"""What Ray says in the message of a job that failed."""


@dataclass(frozen=True)
class RayJobResource:
    """A RayJob in Kubernetes, as `job_state.Job`."""

    name: str

    @property
    def stop_command(self) -> str:
        """See `job_state.Job`."""
        return f"kubectl delete rayjob {self.name}"

    def found(self) -> JobState | None:
        """Return its state; None if there is no such RayJob."""
        status = self._status()
        return None if status is None else _state(status)

    def state(self) -> JobState:
        """See `job_state.Job`."""
        state = _reached(self.found)
        if state is None:
            raise JobError(
                f"there is no RayJob {self.name} any more; submit it again: the run continues from its checkpoint"
            )
        return state

    def stop(self) -> None:
        """See `job_state.Job`."""
        dashboard = ["--address", "http://127.0.0.1:8265"]
        _reached(lambda: output_of(self._in_head(["ray", "job", "stop", "--no-wait", *dashboard, self.name])))

    def log(self) -> str:
        """See `job_state.Job`."""
        try:
            return output_of(self._in_head(["cat", self._log_file]))
        except (CommandError, NotReachedError):
            return ""  # the head is gone, and with it what has not been shown

    async def tail(self) -> AsyncIterator[str]:
        """See `job_state.Job`."""
        async for text in run(self._in_head(["tail", "--lines=+1", "--follow=name", "--retry", self._log_file])):
            yield text

    @property
    def _log_file(self) -> str:
        return f"/tmp/ray/session_latest/logs/job-driver-{self.name}.log"

    def _in_head(self, command: Sequence[str]) -> list[str]:
        """Return the command line that runs a command in the head's container; NotReachedError if there is none yet."""
        cluster = (_reached(self._status) or {}).get("rayClusterName")
        if not cluster:
            raise NotReachedError("there is no Ray cluster yet")
        chosen = f"ray.io/cluster={cluster},ray.io/node-type=head"
        pods = _reached(lambda: output_of(["kubectl", "get", "pods", f"--selector={chosen}", "--output=name"])).split()
        if not pods:
            raise NotReachedError("the head has no pod yet")
        return ["kubectl", "exec", pods[0], "--container=ray-head", "--", *command]

    def _status(self) -> dict[str, Any] | None:
        try:
            text = output_of(["kubectl", "get", "rayjob", self.name, "--output=json"])
        except CommandError as error:
            if "NotFound" in str(error):
                return None
            raise
        try:
            status = json.loads(text).get("status") or {}
        except (ValueError, AttributeError):
            raise NotReachedError("kubectl did not answer with a RayJob") from None
        return status if isinstance(status, dict) else {}


T = TypeVar("T")


def _reached(ask: Callable[[], T]) -> T:
    """Return what kubectl answers; NotReachedError if it fails, which may pass."""
    try:
        return ask()
    except CommandError as error:
        raise NotReachedError(str(error)) from None


def _state(status: dict[str, Any]) -> JobState:
    job, deployment = str(status.get("jobStatus") or "PENDING"), str(status.get("jobDeploymentStatus") or "")
    attempt, message = str(status.get("rayClusterName") or ""), str(status.get("message") or status.get("reason") or "")
    if deployment not in ENDED:
        return JobState("RUNNING" if job == "RUNNING" else "PENDING", attempt=attempt)
    found = EXIT_CODE.search(message)
    ended = job if job in ("SUCCEEDED", "STOPPED") else "FAILED"
    return JobState(ended, None if found is None else int(found[1]), message, attempt)
