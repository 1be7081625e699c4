"""Observers of a run's progress."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distsgd.engine.spec import RunSpec


class Observer:
    """Callbacks for the progress of a run. This one does nothing; those of the command line print it."""

    def stage(self, text: str) -> None:
        """Called when something begins that may take a while, such as `starting Ray`, and again with each count."""

    def note(self, text: str) -> None:
        """Called with a message for the user."""

    def started(self, spec: RunSpec, run_dir: Path, *, nodes: int) -> None:
        """Called when training begins; the workers are on `nodes` nodes."""

    def tracked(self, link: str) -> None:
        """Called once MLflow knows the run, with the address or the command that shows it there."""

    def logged(self, record: Mapping[str, Any]) -> None:
        """Called with each line that was added to the journal."""
