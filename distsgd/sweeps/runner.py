"""The process of a trial: trains one trial after another on rows that all of them share."""

from __future__ import annotations

import os
import sys
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from distsgd.config import Config
from distsgd.errors import DistsgdError, NonFiniteError, RunDirectoryError, Stopped, TrainingError
from distsgd.run.observer import Observer
from distsgd.run.train import train_on
from distsgd.rundir.directory import CONFIG
from distsgd.rundir.result import Result
from distsgd.sweeps import store
from distsgd.system.signals import StopRequest
from distsgd.tracking.sweep import Standing, send_standing

if TYPE_CHECKING:
    from distsgd.cluster.rows import SharedRows, Ticket
    from distsgd.engine.spec import RunSpec


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a trial ended."""

    state: Literal["FINISHED", "FAILED", "KILLED"]
    result: dict[str, Any] | None
    error: str | None = None
    repeats: bool = False
    """Whether it would fail again, at the same step."""


@dataclass(frozen=True, kw_only=True)
class News:
    """What has happened in a trial since the last call."""

    number: int
    started: tuple[int, float] | None
    """The steps and the epochs of the whole run, once they are known."""
    records: list[dict[str, Any]]
    notes: list[str]


class Recorder(Observer):
    """Keeps what a run reports until it is asked for."""

    def __init__(self, number: int) -> None:
        self._lock, self._number = threading.Lock(), number
        self._started: tuple[int, float] | None = None
        self._records: list[dict[str, Any]] = []
        self._notes: list[str] = []

    def started(self, spec: RunSpec, run_dir: Path, *, nodes: int) -> None:  # noqa: ARG002
        """Note how long the run is."""
        self._started = spec.plan.total_steps, spec.plan.epoch(spec.plan.total_steps)

    def logged(self, record: Mapping[str, Any]) -> None:
        """Keep the line."""
        with self._lock:
            self._records.append(dict(record))

    def note(self, text: str) -> None:
        """Keep a warning; other notes are the same for all trials."""
        if text.startswith("warning:"):
            with self._lock:
                self._notes.append(text)

    def take(self) -> News:
        """Return what is new."""
        with self._lock:
            records, self._records = self._records, []
            notes, self._notes = self._notes, []
        return News(number=self._number, started=self._started, records=records, notes=notes)


class TrialRunner:
    """Trains trials; `news` and `stop` are called by other threads meanwhile."""

    def __init__(
        self, tickets: Sequence[Ticket], argv: Sequence[str], folder: str, client_settings: Mapping[str, str]
    ) -> None:
        """`argv`, `folder` and MLflow's `client_settings` are those of the sweep's process.

        The settings hold a login, so they come as an argument: everybody may see the environment that Ray is asked for.
        """
        self._tickets = tickets
        self._rows: tuple[int, SharedRows] | None = None
        self._requests: dict[int, StopRequest] = defaultdict(StopRequest)
        self._recorder: Recorder | None = None
        sys.argv = list(argv)
        os.environ.update(client_settings)
        if os.path.isdir(folder):
            os.chdir(folder)

    def ready(self, path: str, key: str) -> None:
        """Return if this process sees the sweep's directory; RunDirectoryError if it does not."""
        try:
            same = store.read(Path(path)).key == key
        except RunDirectoryError:
            same = False
        if not same:
            raise RunDirectoryError(
                f"the directory of the sweep, {path!r}, is not the same on {os.uname().nodename}, where trials are to "
                "run; give one on storage that all nodes share (--run-dir)"
            )

    def run(self, number: int, config: Config, rows: int) -> Outcome:
        """Train trial `number` on the rows with this number, from its newest checkpoint if there is one."""
        path = Path(str(config.run.dir))
        request = self._requests[number]
        self._recorder = Recorder(number)
        try:
            result = train_on(
                self._shared(rows),
                config,
                resume=(path / CONFIG).exists(),
                observer=self._recorder,
                stop_request=request,
            )
        except Stopped as stopped:
            return Outcome(state="KILLED", result=_result(path), error=str(stopped))
        except DistsgdError as error:
            repeats = isinstance(error, NonFiniteError) or type(error) is TrainingError
            return Outcome(state="FAILED", result=_result(path), error=str(error), repeats=repeats)
        finally:
            self._requests.pop(number, None)
        return Outcome(state="FINISHED", result=result.to_json())

    def _shared(self, number: int) -> SharedRows:
        if self._rows is None or self._rows[0] != number:
            self._rows = None  # before the next ones are read
            self._rows = number, self._tickets[number].redeem()
        return self._rows[1]

    def news(self) -> News | None:
        """Return what has happened since the last call."""
        return None if self._recorder is None else self._recorder.take()

    def stop(self, number: int, signum: int, grace_s: float) -> None:
        """Have the trial write a checkpoint and end; its MLflow run has `grace_s` seconds for that."""
        request = self._requests[number]
        request.grace_s = grace_s
        request.note(signum)

    def send_standing(self, uri: str, standing: Standing) -> str | None:
        """See tracking.sweep; return why that failed, or None."""
        return send_standing(uri, standing)


def _result(path: Path) -> dict[str, Any] | None:
    found = Result.read(path)
    return None if found is None else found.to_json()
