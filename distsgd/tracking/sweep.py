"""The parent run of a sweep in MLflow: what is tried, and the figures of the best trial so far.

The trials are its children, as `tracking.parent` makes them: each sends itself, and whichever comes first creates the
parent.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from distsgd.tracking.failures import reason
from distsgd.tracking.quiet import quiet_mlflow


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How far a sweep is."""

    experiment: str
    name: str
    """The parent's, as the trials' `tracking.parent` has it."""
    began_ms: int
    status: Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
    parameters: dict[str, str]
    """What is varied, and what all trials share."""
    tags: dict[str, str] = field(default_factory=dict)
    """About the best trial."""
    metrics: dict[str, float] = field(default_factory=dict)
    """The figures of the best trial."""
    step: int = 0
    """Number of trials that have ended."""
    note: str = ""
    """The parent's description, in Markdown."""
    files: tuple[str, ...] = ()
    """Paths of files that become artifacts."""


def send_standing(uri: str, standing: Standing) -> str | None:
    """Bring the parent run up to date; return why that failed, in a line, or None."""
    try:
        with quiet_mlflow():
            from distsgd.tracking.store import Store

            Store(uri).send_standing(standing)
    except Exception as error:  # mlflow raises its own errors and those of the libraries below it
        return reason(error, uri)
    return None
