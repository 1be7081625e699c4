"""Those who are told how a run goes."""

from __future__ import annotations

import contextlib
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


class ShieldedObserver(Observer):
    """Passes everything on to another observer, whose closed terminal or broken pipe does not end the run."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def note(self, text: str) -> None:
        """See Observer.note."""
        with contextlib.suppress(OSError, ValueError):  # ValueError is that of a closed file
            self._observer.note(text)

    def started(self, spec: RunSpec, run_dir: Path) -> None:
        """See Observer.started."""
        with contextlib.suppress(OSError, ValueError):
            self._observer.started(spec, run_dir)

    def logged(self, record: Mapping[str, Any]) -> None:
        """See Observer.logged."""
        with contextlib.suppress(OSError, ValueError):
            self._observer.logged(record)
