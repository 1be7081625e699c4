"""What the command line prints as a warning, as one of Python's: for scripts, where nothing else is shown."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from distsgd.errors import RunWarning
from distsgd.run.observer import Observer

if TYPE_CHECKING:
    from distsgd.engine.spec import RunSpec

PREFIX = "warning: "


class WarningObserver(Observer):
    """Issues a run's warnings at the place in the user's code that has called `train`.

    Those about the data come before the first step. Later ones wait for `issue`, because a filter that makes errors of
    warnings must not end a training that goes well.
    """

    def __init__(self, caller: FrameType) -> None:
        self._place = caller.f_code.co_filename, caller.f_lineno
        self._module = str(caller.f_globals.get("__name__", "<unknown>"))
        self._registry: dict[str | tuple[str, type[Warning], int], int] = caller.f_globals.setdefault(
            "__warningregistry__", {}
        )
        self._training = False
        self._later: list[str] = []

    def note(self, text: str) -> None:
        """See Observer.note; what is no warning is not shown."""
        if not text.startswith(PREFIX):
            return
        self._later.append(text.removeprefix(PREFIX))
        if not self._training:
            self.issue()

    def started(self, spec: RunSpec, run_dir: Path, *, nodes: int) -> None:  # noqa: ARG002
        """See Observer.started."""
        self.hold()

    def hold(self) -> None:
        """Let warnings wait for `issue` from now on, because training has begun."""
        self._training = True

    def issue(self) -> None:
        """Issue the warnings that wait, once each."""
        texts, self._later = self._later, []
        for text in dict.fromkeys(texts):
            warnings.warn_explicit(text, RunWarning, *self._place, module=self._module, registry=self._registry)
