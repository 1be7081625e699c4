"""What is known of a job on a cluster, whatever manages that."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol


class NotReachedError(Exception):
    """The cluster did not answer, or not as it should, which may pass."""


@dataclass(frozen=True)
class JobState:
    """How far a job is."""

    status: str
    """PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED."""
    exit_code: int | None = None
    """Of its command, negative if a signal ended it; None as long as it runs, and if the cluster does not say."""
    message: str = ""
    attempt: str = ""
    """Differs if the cluster has started the job again, with a log that begins again."""

    @property
    def ended(self) -> bool:
        """Whether it will not change any more."""
        return self.status in ("STOPPED", "SUCCEEDED", "FAILED")


class Job(Protocol):
    """A job that was submitted. All methods may raise NotReachedError."""

    @property
    def name(self) -> str:
        """What the cluster calls it."""
        ...

    @property
    def stop_command(self) -> str:
        """The command that stops it."""
        ...

    def state(self) -> JobState:
        """Return its state; JobError if the cluster does not know it any more."""
        ...

    def stop(self) -> None:
        """Ask it to write its checkpoint and end; it may have to be asked again."""
        ...

    def log(self) -> str:
        """Return its whole output."""
        ...

    def tail(self) -> AsyncIterator[str]:
        """Yield its output from the beginning, as it comes; any exception means that the connection is lost."""
        ...
