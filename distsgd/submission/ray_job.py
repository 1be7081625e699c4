"""A request as a Ray job: looked into first, then submitted, unless its job is there already."""

from __future__ import annotations

import itertools
import json
import re
import secrets
import shlex
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from distsgd.cluster.job_client import JobClient, RayJobHandle
from distsgd.cluster.job_state import JobState
from distsgd.errors import TITLES, ResourceError
from distsgd.submission import package
from distsgd.submission.awaited_look import end_of
from distsgd.submission.request import Request
from distsgd.submission.settings import GRACE_S
from distsgd.system.jobs import RESUBMIT

SHOWN_FILES = 5
"""Files of the package that are shown by name."""

LOOK = "look: "
"""What the lines begin with that the look prints for the user."""


@dataclass(frozen=True)
class RayJob:
    """A request on its way to a Ray cluster."""

    request: Request
    address: str
    """Of the dashboard."""
    code: bool
    """Whether this machine's distsgd is uploaded; else the cluster's own is used."""
    again: str
    """The command that submits it again."""

    @property
    def command(self) -> str:
        """The command line of the job."""
        return shlex.join(["python", f"jobs/{self.request.command}.py", *self.request.words])

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables of the job; Ray's default is to kill a job three seconds after it was told to stop."""
        return {"RAY_JOB_STOP_WAIT_TIME_S": str(GRACE_S), RESUBMIT: self.again}

    def manifest(self) -> str:
        """Return what is submitted, as JSON."""
        files = package.contents(self.request.command, code=self.code)
        content = {
            "submission_id": f"{self.request.name}-1",
            "entrypoint": self.command,
            "runtime_env": {"working_dir": f"{self.request.name}.zip", "env_vars": self.environment},
            "files": {"count": len(files), "bytes": sum(map(len, files.values())), "first": list(files)[:SHOWN_FILES]},
        }
        return json.dumps(content, indent=2)

    def present(self, client: JobClient) -> dict[int, JobState]:
        """Return the jobs of this request that the cluster knows, by their numbers, in order."""
        found = dict[int, JobState]()
        for job_id, state in client.jobs().items():
            match = re.fullmatch(re.escape(self.request.name) + "-([1-9][0-9]{0,8})", job_id)
            if match:
                found[int(match[1])] = state
        return dict(sorted(found.items()))

    def submitted(self, notice: Callable[[str], None]) -> RayJobHandle:
        """Return the job of this request that has not ended, which is submitted if there is none.

        ResourceError if the look finds that the run cannot be started.
        """
        client = JobClient(self.address)
        numbers = self.present(client)
        for number, state in reversed(numbers.items()):
            if not state.ended:
                job_id = f"{self.request.name}-{number}"
                notice(f"the job {job_id} is there, and {state.status}; this is its log")
                return RayJobHandle(client, job_id)
        with tempfile.TemporaryDirectory() as folder:
            zipped = Path(folder) / f"{self.request.name}.zip"
            package.write(zipped, self.request.command, code=self.code)
            for line in self._look(client, zipped, notice):
                notice(line)
            number = max(numbers, default=0) + 1
            job_id = f"{self.request.name}-{number}"
            if client.submit(job_id, self.command, package=zipped, environment=self.environment):
                notice(f"submitted as {job_id}")
            else:
                notice(f"the job {job_id} has been submitted by somebody else just now; this is its log")
            return RayJobHandle(client, job_id)

    def _look(self, client: JobClient, zipped: Path, notice: Callable[[str], None]) -> Iterator[str]:
        """Have the cluster look whether the run can be started there, and yield what it found."""
        job_id = f"{self.request.name}-look-{secrets.token_hex(3)}"
        values = json.dumps(self.request.config.explicit())
        command = shlex.join(["python", "-m", "distsgd.cli", "look", self.request.command, values])
        notice(f"looking at the cluster: whether {self.request.command} can run there (job {job_id})")
        client.submit(job_id, command, package=zipped, environment={})
        state, log = end_of(client, job_id, notice)
        if state.status != "SUCCEEDED":
            raise ResourceError(_problem(state, log))
        yield from (line.removeprefix(LOOK) for line in log.splitlines() if line.startswith(LOOK))


def _problem(state: JobState, log: str) -> str:
    """Return why the look failed: distsgd's message if there is one."""
    _, own, message = ("\n" + log).rpartition("\ndistsgd: ")
    if own:
        first, *rest = message.splitlines()
        of_list = itertools.takewhile(lambda line: line.startswith("  - ") or line in TITLES, rest)
        return "\n".join([first, *of_list])
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    missing = next((line for line in lines if line.startswith("ModuleNotFoundError")), None)
    if missing is not None:
        return (
            f"the cluster's Python lacks what distsgd needs ({missing}); install it there: "
            "`pip install -c constraints.txt .`, or use an image with it (docker/Dockerfile)"
        )
    found = " | ".join(lines[-3:]) or state.message
    return f"the cluster could not look at the run ({state.status}): {found[-600:]}"
