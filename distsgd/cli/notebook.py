"""Progress of a run in a notebook: one output that is replaced, which needs no widgets."""

from __future__ import annotations

import html
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distsgd.cli.lines import Pace, Throughput, opening, progress
from distsgd.run.observer import Observer

if TYPE_CHECKING:
    from distsgd.engine.spec import RunSpec

EVERY_S = 0.25
"""Minimum seconds between two updates of the output."""

RATE_S = 5.0
"""Seconds of steps that the samples per second are averaged over."""


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook, without importing IPython."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and getattr(ipython.get_ipython(), "kernel", None) is not None


class NotebookObserver(Observer):
    """Shows messages, what is being done, and a bar with the newest journal line in the output of a cell."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._notes: list[str] = []
        self._stage, self._line = "", ""
        self._done = self._total = 0
        self._handle: Any = None
        self._shown_at, self._shown = -EVERY_S, self.as_html()

    def __enter__(self) -> NotebookObserver:
        return self

    def __exit__(self, *exception: Any) -> None:
        self._stage = ""
        if self.as_html() != self._shown:  # in which a stage may be left that is over now
            self._show()

    def stage(self, text: str) -> None:
        """Show it below the bar."""
        self._stage = text
        self._update()

    def note(self, text: str) -> None:
        """Show it above the bar, at once."""
        self._notes.append(text)
        self._show()

    def started(self, spec: RunSpec, run_dir: Path, *, nodes: int) -> None:
        """Show what is trained, and the bar."""
        step, self._plan = spec.start.step, spec.plan
        self._done, self._total = step, spec.plan.total_steps
        self._pace, self._rate = Pace(step, self._total, self._clock()), Throughput(step, window_s=RATE_S)
        self._stage = ""
        self.note(opening(spec, run_dir, nodes))

    def logged(self, record: Mapping[str, Any]) -> None:
        """Update the bar."""
        now, self._done = self._clock(), record["step"]
        self._pace.add(self._done, now)
        self._rate.add(record)
        self._line = progress(record, self._plan, self._rate.samples_per_s(), self._pace.left_s(now))
        self._update()

    def _update(self) -> None:
        if self._clock() - self._shown_at >= EVERY_S:
            self._show()

    def _show(self) -> None:
        from IPython.display import HTML, display

        self._shown_at, self._shown = self._clock(), self.as_html()
        content = HTML(self._shown)
        if self._handle is None:
            self._handle = display(content, display_id=True)
        else:
            self._handle.update(content)

    def as_html(self) -> str:
        """Return the content of the output."""
        parts = [f"<div>{html.escape(note)}</div>" for note in self._notes]
        if self._total:
            bar = f'<progress value="{self._done}" max="{self._total}" style="width:100%"></progress>'
            parts.append(f"<div>{bar}<br/><code>{html.escape(self._line)}</code></div>")
        if self._stage:
            parts.append(f"<div><i>{html.escape(self._stage)} …</i></div>")
        return f"<div>{''.join(parts)}</div>"
