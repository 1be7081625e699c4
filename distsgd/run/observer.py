"""Those who are told how a run goes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distsgd.engine.spec import RunSpec


class Observer:
    """Is told how a run goes, and ignores it; the command line's observers print it."""

    def note(self, text: str) -> None:
        """Take a sentence that the user should see."""

    def started(self, spec: RunSpec, run_dir: Path) -> None:
        """Take note that training begins."""

    def logged(self, record: Mapping[str, Any]) -> None:
        """Take a line that was added to the journal."""
