"""MLflow behind the journal: one background thread that reads what is in the run directory and tells the store.

Training writes its journal and never waits for MLflow. The thread follows the journal's file; if the store is slow,
away or out of order it tries again, and what it cannot send by the end, `distsgd sync` sends later.
"""

from __future__ import annotations

import logging
import os
import shlex
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from distsgd.config import TrackingConfig
from distsgd.errors import ConfigError
from distsgd.rundir.directory import RunDirectory
from distsgd.rundir.journal import Reader, Record
from distsgd.rundir.result import Result
from distsgd.tracking import about as tracking_about
from distsgd.tracking import uri as tracking_uri

if TYPE_CHECKING:
    from distsgd.tracking.store import StoredRun

EVERY_S = 1.0
"""Seconds between two looks at the journal."""

REQUEST_S = 10
"""Seconds that one request to a server may take, unless MLFLOW_HTTP_REQUEST_TIMEOUT says otherwise."""

REQUIRED_S = 11.0
"""Seconds in which a store that is required must have answered, the import of mlflow included."""

PAUSES_S = (1.0, 30.0)
"""Seconds between two attempts to reach a store that failed: the first pause, which doubles, and the longest."""

IMPORT_S = 20.0
"""Seconds that importing mlflow may take at most, on a slow disk."""

LAST_ATTEMPTS_S = 3.0
"""Seconds after the end of a run in which a store that fails at once is tried again."""


@dataclass(frozen=True)
class Ending:
    """What tracking came to: the MLflow run's id, if there is one, and a warning if the store has not got all."""

    run_id: str | None
    warning: str | None


class NoTracker:
    """Does nothing, where tracking is not enabled; and what every tracker can do."""

    uri: str | None = None
    """The store's."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the tracking."""

    def start(self) -> None:
        """Begin to import mlflow, in the background."""

    def follow(self, directory: RunDirectory) -> None:
        """Begin to tell the store of the run in this directory, which holds `tracking.json`."""

    def take_warning(self) -> str | None:
        """Return a sentence on a failure of the store that has not been told of yet."""
        return None

    def finish(self, give_up: Callable[[], bool]) -> Ending:  # noqa: ARG002
        """Have the rest of the journal and `result.json` sent; wait at most tracking.timeout_s, or until `give_up`."""
        return Ending(None, None)


def make_tracker(config: TrackingConfig) -> NoTracker:
    """Return the tracker that the configuration asks for.

    Raises ConfigError if the store's URI is none, or if tracking is required and the store does not answer.
    """
    if not config.enabled:
        return NoTracker()
    tracker = Tracker(config, tracking_uri.resolve(config))
    if config.required:
        tracker.require()
    return tracker


def import_quietly() -> None:
    """Import mlflow such that it neither prints nor reports nor waits long.

    How long it waits it looks up at each request, so that holds for a process, too, that has imported it before.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(REQUEST_S))
    if "mlflow" not in sys.modules:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "CRITICAL")
        logging.getLogger("alembic").setLevel(logging.ERROR)
    import distsgd.tracking.store  # noqa: F401


class Tracker(NoTracker):
    """Follows a run's journal from a thread of its own."""

    uri: str

    def __init__(self, config: TrackingConfig, uri: str) -> None:
        self._config, self.uri, self._shown = config, uri, tracking_uri.redacted(uri)
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._imported, self._answered, self._followed = threading.Event(), threading.Event(), threading.Event()
        self._ending, self._abandoned = threading.Event(), threading.Event()
        self._problem: str | None = None
        self._told = False
        self._complete = False

    def start(self) -> None:
        """See NoTracker.start."""
        if self._thread.ident is None:
            self._thread.start()

    def require(self) -> None:
        """Return once the store has answered; ConfigError if it does not, or not in time."""
        self.start()
        deadline = time.monotonic() + REQUIRED_S
        while not self._answered.wait(0.05) and self._problem is None and time.monotonic() < deadline:
            pass
        if not self._answered.is_set():
            self._abandoned.set()
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
        if self._problem is None or self._told:
            return None
        self._told = True
        return f"{self._failure()}; training goes on, and what is missing there is sent when it is back"

    def finish(self, give_up: Callable[[], bool]) -> Ending:
        """See NoTracker.finish."""
        deadline = time.monotonic() + self._config.timeout_s
        self._ending.set()
        while self._thread.is_alive() and time.monotonic() < deadline and not give_up():
            self._thread.join(0.05)
        self._abandoned.set()
        path = self._directory.path
        run_id = tracking_about.read_id(path).get("run_id")
        if self._complete:
            return Ending(run_id, None)
        return Ending(
            run_id,
            f"{self._failure()}; the run itself is not affected and its journal is complete: "
            f"`distsgd sync {shlex.quote(str(path))}` tells MLflow of the rest when it is back",
        )

    def _failure(self) -> str:
        return (
            f"the MLflow store {self._shown!r} has not taken all of the run: "
            f"{self._problem or 'it has not answered yet'}"
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._abandoned.set()
        if self._thread.is_alive():  # a process must not end in the middle of an import
            self._imported.wait(IMPORT_S)

    def _work(self) -> None:
        """Import mlflow, then try to tell the store of everything until that has worked or nobody waits for it."""
        pause, ended = PAUSES_S[0], 0.0
        try:
            import_quietly()
        except Exception as error:  # an installation may be broken in any way
            self._problem = f"mlflow cannot be imported: {describe(error)}"
            return
        finally:
            self._imported.set()
        while not self._abandoned.is_set():
            try:
                self._tell()
            except Exception as error:  # whatever happens here, training goes on
                self._problem = describe(error)
                if self._ending.is_set():
                    ended = ended or time.monotonic()
                    if time.monotonic() - ended > LAST_ATTEMPTS_S:
                        return
                    time.sleep(PAUSES_S[0])
                else:
                    self._ending.wait(pause)
                    pause = min(2 * pause, PAUSES_S[1])
            else:
                return

    def _tell(self) -> None:
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
        about = tracking_about.read(path)
        run = store.open_run(path, about, running=True)
        reader, records = Reader(self._directory.journal), list[Record]()
        while not self._abandoned.is_set():
            ending = self._ending.is_set()  # looked at before the journal, so that no line is missed
            new = reader.new()
            records += new
            run.send(new)
            self._problem = None
            if ending:
                self._complete_run(run, about, records)
                return
            self._ending.wait(EVERY_S)

    def _wait_for_run(self) -> None:
        """Return when there is a run to follow, or none will come."""
        while not self._followed.wait(0.2) and not self._abandoned.is_set():
            pass

    def _complete_run(self, run: StoredRun, about: dict[str, Any], records: list[Record]) -> None:
        path = self._directory.path
        run.complete(path, about, Result.read(path), records)
        self._complete = True


def describe(error: BaseException) -> str:
    """Return what is at the bottom of an error from mlflow, in one line."""
    seen: BaseException | None = error
    while seen is not None:
        error, seen = seen, seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    lines = str(error).strip().splitlines() or [""]
    return f"{lines[0][:200]} ({type(error).__name__})".strip()
