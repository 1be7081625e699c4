"""The kinds of cluster that a request can go to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

from distsgd.cluster.job_state import Job
from distsgd.submission.request import Request
from distsgd.submission.settings import Resources

Kind = Literal["ray", "kubernetes", "slurm"]


class Target(Protocol):
    """A request for one kind of cluster."""

    def manifest(self) -> str:
        """Return what is submitted, as text."""
        ...

    def submitted(self, notice: Callable[[str], None]) -> Job:
        """Return the job of this request that has not ended, which is submitted if there is none.

        RefusedError if the cluster cannot be reached, or would not run it; `notice` gets messages for the user.
        """
        ...


def target(
    kind: Kind, request: Request, *, address: str, upload: bool, resources: Resources, image: str | None, again: str
) -> Target:
    """Return the request for a kind of cluster; `again` is the command that submits it again."""
    if kind == "kubernetes":
        from distsgd.submission.kubernetes import IMAGE, KubernetesJob

        return KubernetesJob(request, resources, image or IMAGE, again)
    if kind == "slurm":
        from distsgd.submission.slurm import SlurmJob

        return SlurmJob(request, resources, again)
    from distsgd.submission.ray_job import RayJob

    return RayJob(request, address, upload, again)
