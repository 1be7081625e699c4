"""Tracking with MLflow: one background thread that reads the run directory and sends its content to the store.

Training writes its journal and never waits for MLflow. The thread follows the journal's file; if the store is slow,
down or broken, it retries, and `distsgd sync` can send later what is missing at the end.
"""

from __future__ import annotations

import contextlib
import shlex
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

from distsgd.config import TrackingConfig
from distsgd.errors import ConfigError
from distsgd.rundir.directory import RunDirectory
from distsgd.rundir.journal import Reader, Record
from distsgd.rundir.result import Result
from distsgd.system.secrets import redacted
from distsgd.tracking import description, run_id
from distsgd.tracking import uri as tracking_uri
from distsgd.tracking.failures import reason
from distsgd.tracking.quiet import importing, quiet_mlflow

if TYPE_CHECKING:
    from distsgd.tracking.description import RunDescription
    from distsgd.tracking.stored_run import StoredRun
    from distsgd.tracking.system_metrics import SystemMetrics

INTERVAL_S = 1.0
"""Seconds between reads of the journal."""

REQUIRED_S = 11.0
"""Seconds within which a required store must answer, including the import of mlflow."""

RETRY_S = (1.0, 30.0)
"""Seconds between attempts to reach a failed store: initial and maximum value; doubled after each attempt."""

IMPORT_S = 20.0
"""Maximum seconds for an import, on a slow disk."""

FIRST_VALIDATION_S = 10.0
"""Seconds for which points wait for the first validation: MLflow compares runs by the metric that was logged first."""

LAST_ATTEMPTS_S = 3.0
"""Seconds after the end of a run during which a store that fails immediately is retried."""


@dataclass(frozen=True)
class Ending:
    """The outcome of tracking: the ID of the MLflow run, if any, and a warning if the store lacks anything.

    There is also a warning if the run is not a child of the one that it was started in.
    """

    run_id: str | None
    warning: str | None


class NoTracker:
    """The interface of trackers; this one, for runs without tracking, does nothing."""

    uri: str | None = None
    """The store's."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the tracking."""

    def start(self) -> None:
        """Start to import mlflow in the background."""

    def follow(self, directory: RunDirectory) -> None:
        """Start to send the run in this directory, which contains `tracking.json`, to the store."""

    def take_warning(self) -> str | None:
        """Return a message about a failure of the store, once; otherwise None."""
        return None

    def take_link(self) -> str | None:
        """Return where the run is shown, once, as soon as it is in the store; otherwise None."""
        return None

    def finish(self, stop_waiting: Callable[[], bool]) -> Ending:  # noqa: ARG002
        """Send the rest of the journal and `result.json`; wait at most tracking.timeout_s, or until `stop_waiting`."""
        return Ending(None, None)


def make_tracker(config: TrackingConfig) -> NoTracker:
    """Return the tracker that the configuration asks for.

    Raises ConfigError if the URI of the store or that of links is invalid, or if tracking is required and the store
    does not answer.
    """
    if not config.enabled:
        return NoTracker()
    uri = tracking_uri.resolve(config)
    tracking_uri.link_uri(config, uri)  # which is refused before the run begins, if it is no address
    tracker = Tracker(config, uri)
    if config.required:
        tracker.require()
    return tracker


class Tracker(NoTracker):
    """Follows a run's journal from a background thread."""

    uri: str

    def __init__(self, config: TrackingConfig, uri: str) -> None:
        self._config, self.uri, self._shown = config, uri, redacted(uri)
        self._thread = threading.Thread(target=self._run, name="tracking", daemon=True)
        self._answered, self._followed = threading.Event(), threading.Event()
        self._ending, self._abandoned = threading.Event(), threading.Event()
        self._settings = contextlib.ExitStack()
        self._problem: str | None = None
        self._notice: str | None = None
        self._link: str | None = None
        self._warned = False
        self._complete = self._sending = False

    def start(self) -> None:
        """See NoTracker.start."""
        if self._thread.ident is None:
            self._settings.enter_context(quiet_mlflow())
            self._thread.start()

    def require(self) -> None:
        """Return once the store has answered; ConfigError if it does not, or not in time."""
        self.start()
        deadline = time.monotonic() + REQUIRED_S
        while not self._answered.wait(0.05) and self._problem is None and time.monotonic() < deadline:
            pass
        if not self._answered.is_set():
            self._close()
            raise ConfigError(
                f"tracking.required is true, and the MLflow store {self._shown!r} cannot be "
                f"reached: {self._problem or f'no answer within {REQUIRED_S:g} s'}; start it, correct tracking.uri, or "
                "leave tracking.required out to train without it and `distsgd sync` later"
            )

    def follow(self, directory: RunDirectory) -> None:
        """See NoTracker.follow."""
        self._directory = directory
        self.start()
        self._followed.set()

    def take_warning(self) -> str | None:
        """See NoTracker.take_warning."""
        if self._problem is None or self._warned:
            return None
        self._warned = True
        return (
            f"the MLflow store {self._shown!r} has not taken what was sent so far: {self._problem}; training "
            "continues, and all of it is sent again until the run has ended"
        )

    def take_link(self) -> str | None:
        """See NoTracker.take_link."""
        link, self._link = self._link, None
        return link

    def finish(self, stop_waiting: Callable[[], bool]) -> Ending:
        """See NoTracker.finish."""
        began = time.monotonic()
        deadline = began + self._config.timeout_s
        self._ending.set()
        while self._thread.is_alive() and time.monotonic() < deadline and not stop_waiting():
            self._thread.join(0.05)
        self._abandoned.set()
        path = self._directory.path
        if self._complete:
            return Ending(run_id.known(path), self._notice)
        return Ending(
            run_id.known(path),
            f"{self._failure(time.monotonic() - began)}; the run itself is not affected and its journal is complete: "
            f"send the rest with `distsgd sync {shlex.quote(str(path))}` when the store is back",
        )

    def _failure(self, waited_s: float) -> str:
        """Return why the store lacks a part of the run, after so many seconds of waiting at its end."""
        so_far = "it was still being sent" if self._sending else "the store had not answered"
        problem = self._problem or f"{so_far} {waited_s:.0f} s after training had ended"
        return f"the MLflow store {self._shown!r} has not received the whole run: {problem}"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        self._abandoned.set()
        if importing.acquire(timeout=IMPORT_S):
            importing.release()
        self._settings.close()

    def _run(self) -> None:
        """Import mlflow, then try to send everything until that succeeds or is no longer waited for."""
        pause, ended = RETRY_S[0], 0.0
        try:
            # Settings of its own: a short run may end before the import, which would then begin to send telemetry.
            with importing, quiet_mlflow():
                import distsgd.tracking.store  # noqa: F401
        except Exception as error:  # an installation may be broken in any way
            self._problem = f"mlflow cannot be imported: {reason(error, self.uri)}"
            return
        while not self._abandoned.is_set():
            try:
                self._send_run()
            except Exception as error:  # whatever happens here, training continues
                self._problem = reason(error, self.uri)
                if self._ending.is_set():
                    ended = ended or time.monotonic()
                    if time.monotonic() - ended > LAST_ATTEMPTS_S:
                        return
                    time.sleep(RETRY_S[0])
                else:
                    self._ending.wait(pause)
                    pause = min(2 * pause, RETRY_S[1])
            else:
                return

    def _send_run(self) -> None:
        """Connect to the store, bring it up to date and keep it so, until the run has ended."""
        from distsgd.tracking.store import Store

        file = tracking_uri.sqlite_path(self.uri)
        if file is not None and not file.exists() and not self._config.required:
            self._wait_for_run()  # a run that is refused leaves no new file behind
        store = Store(self.uri)
        if self._config.required and not self._answered.is_set():
            store.ping()
            self._answered.set()
        self._wait_for_run()
        if self._abandoned.is_set():
            return
        path = self._directory.path
        described = description.read(path)
        run = store.open_run(path, described, running=True)
        self._sending = True
        self._notice = run.notice or self._notice
        system = self._system_metrics(run) if self._config.system_metrics else None
        where = run_id.read(path)
        if where is not None:
            self._link = tracking_uri.view_command(where, path)
        reader, records, waiting = Reader(self._directory.journal), list[Record](), list[Record]()
        began, validated = time.monotonic(), False
        while not self._abandoned.is_set():
            ending = self._ending.is_set()  # checked before reading the journal, so that no line is missed
            new = reader.new()
            records += new
            waiting += new
            validated = validated or any("val/loss" in record for record in new)
            if validated or ending or time.monotonic() - began > FIRST_VALIDATION_S:
                run.send(waiting)
                waiting.clear()
            if system is not None:
                system.finish() if ending else system.sample()
            self._problem = None
            if ending:
                self._complete_run(run, described, records)
                return
            self._ending.wait(INTERVAL_S)

    def _system_metrics(self, run: StoredRun) -> SystemMetrics | None:
        """Begin to measure the machine; if that is impossible, the run goes on without."""
        try:
            return run.system_metrics()
        except Exception as error:  # psutil and MLflow raise what they meet in /proc, or that a library is missing
            self._notice = f"there are no system metrics: {reason(error, self.uri)}"
            return None

    def _wait_for_run(self) -> None:
        """Wait until there is a run to follow, or until tracking is abandoned."""
        while not self._followed.wait(0.2) and not self._abandoned.is_set():
            pass

    def _complete_run(self, run: StoredRun, described: RunDescription, records: list[Record]) -> None:
        path = self._directory.path
        run.complete(path, described, Result.read(path), records)
        self._complete = True
