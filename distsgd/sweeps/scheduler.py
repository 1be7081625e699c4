"""Runs the trials of a sweep in the processes of a pool, as many at a time as there are processes."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from distsgd.cluster.trial_pool import Done, Member, TrialPool
from distsgd.config import Config
from distsgd.errors import DistsgdError, RunDirectoryError
from distsgd.sweeps.observer import SweepObserver
from distsgd.sweeps.pruning import Pruner
from distsgd.sweeps.runner import News, Outcome
from distsgd.sweeps.standings import Standings
from distsgd.sweeps.store import Sweep, SweepFile
from distsgd.sweeps.trial import Metric, Trial
from distsgd.system.jobs import submission_id
from distsgd.system.signals import GRACE_S, StopRequest
from distsgd.tracking.sweep import Standing

POLL_S = 0.25
"""Seconds between two looks at the trials."""

STOPPING_S = 30.0
"""Seconds that a trial which is stopped may wait for MLflow, outside of a Ray job, which is killed soon."""


PLACELESS_S = 30.0
"""Seconds without a process after which it is said what one needs."""


class Plan(Protocol):
    """What the scheduler asks of the sweep."""

    def config_of(self, trial: Trial) -> Config:
        """Return the configuration of a trial."""
        ...

    def rows_of(self, trial: Trial) -> int:
        """Return the number of the rows that a trial is trained on."""
        ...

    @property
    def has_more(self) -> bool:
        """Whether trials are waiting, or settings are still to be drawn."""
        ...

    def draw_setting(self) -> bool:
        """Add the trials of one more setting; return whether there was one."""
        ...

    def standing(self) -> Standing | None:
        """Return what MLflow is told of the sweep; None if it is not tracked."""
        ...


class Scheduler:
    """Gives trials to processes, and takes their news and their outcomes."""

    def __init__(
        self,
        plan: Plan,
        sweep: Sweep,
        file: SweepFile,
        pool: TrialPool,
        *,
        metric: Metric,
        max_restarts: int,
        uri: str | None,
        observer: SweepObserver,
        request: StopRequest,
    ) -> None:
        self._plan, self._sweep, self._folder, self._pool = plan, sweep, file.folder, pool
        self._max_restarts, self._uri = max_restarts, uri
        self._observer, self._request = observer, request
        self._tasks: dict[Member, Callable[[Done], None]] = {}
        """What is done with the end of each process's task."""
        self._trials: dict[Member, Trial] = {}
        self._ready: set[Member] = set()
        self._losses: Counter[int] = Counter()
        """How often the process of each trial was lost."""
        self._unready = 0
        """How often a process was not even ready."""
        self._pruner = Pruner(metric) if sweep.prune else None
        self._pruned: set[int] = set()
        self._warned = self._stopping = False
        self._placeless_since: float | None = time.monotonic()
        """Since when there is no process that is ready; None once that has been said."""
        self._standings = Standings(sweep, file, metric, observer)

    def run(self) -> None:
        """Run all trials, or until a signal asks to stop; RunDirectoryError if a node does not see the directory."""
        for member in self._pool.members:
            self._begin(member, self._became_ready, "ready", str(self._folder.absolute()), self._sweep.key)
        self._observer.sweep_started(self._standings.rows, at_once=len(self._pool.members), path=str(self._folder))
        while self._is_going_on():
            if self._request.signum is not None and not self._stopping:
                self._stop_all(self._request.signum)
            self._fill()
            for done in self._pool.wait(POLL_S):
                self._tasks.pop(done.member)(done)
            self._take_news()
            self._note_lack_of_places()

    def _is_going_on(self) -> bool:
        if self._trials or any(member in self._ready for member in self._tasks):
            return True
        return not self._stopping and self._plan.has_more

    def _begin(self, member: Member, ended: Callable[[Done], None], method: str, *arguments: object) -> None:
        self._tasks[member] = ended
        self._pool.begin(member, method, *arguments)

    def _became_ready(self, done: Done) -> None:
        if isinstance(done.error, RunDirectoryError):
            raise done.error
        if done.error is None:
            self._ready.add(done.member)
            return
        self._unready += 1
        if self._unready > self._max_restarts:
            raise done.error
        self._replace(done.member)

    def _note_lack_of_places(self) -> None:
        """Say what a trial needs, and what there is, if there has been no process for a while; once each time."""
        if self._ready:
            self._placeless_since = time.monotonic()
        elif self._placeless_since is not None and time.monotonic() - self._placeless_since > PLACELESS_S:
            self._placeless_since = None
            self._observer.note(
                f"warning: no trial has begun for {PLACELESS_S:g} s: {self._pool.need()}; the sweep goes on waiting, "
                "and can be stopped and resumed later"
            )

    def _next(self) -> Trial | None:
        """Return the next trial to train; None if there is none."""
        while True:
            found = next((trial for trial in self._sweep.trials if trial.state == "PENDING"), None)
            if found is not None or not self._plan.draw_setting():
                return found
            self._standings.add_rows()

    def _fill(self) -> None:
        """Give every process without a task a trial."""
        for member in list(self._ready):
            trial = None if member in self._tasks or self._stopping else self._next()
            if trial is not None:
                self._trials[member] = trial
                self._standings.change(trial, "RUNNING")
                config, rows = self._plan.config_of(trial), self._plan.rows_of(trial)
                self._begin(member, self._trial_ended, "run", trial.number, config, rows)

    def _trial_ended(self, done: Done) -> None:
        trial, outcome = self._trials.pop(done.member), done.value
        if done.error is not None:
            self._lost(trial, done.error)
            self._replace(done.member)
            return
        assert isinstance(outcome, Outcome)
        trial.result, trial.repeats = outcome.result, outcome.repeats
        trial.error = outcome.error if outcome.state == "FAILED" else None
        for text in (outcome.result or {}).get("warnings", ()):  # the last ones are no news any more
            self._standings.warn(trial, f"warning: {text}")
        if outcome.state == "KILLED" and trial.number in self._pruned:
            self._prune_rest(trial)
            self._standings.change(trial, "PRUNED")
        else:
            self._standings.change(trial, outcome.state)
        self._send_standing(done.member)

    def _lost(self, trial: Trial, error: DistsgdError) -> None:
        """Have a trial whose process is gone trained on by another one, unless that has happened too often."""
        self._pruned.discard(trial.number)  # it has not ended as such a trial does, with a checkpoint and a result
        self._losses[trial.number] += 1
        if self._losses[trial.number] > self._max_restarts:
            trial.error = f"{error}, and is not replaced any more (run.max_restarts is {self._max_restarts})"
            self._standings.change(trial, "FAILED")
        else:
            self._observer.note(f"warning: trial {trial.number}: {error}; it goes on from its checkpoint")
            self._standings.change(trial, "PENDING")

    def _replace(self, member: Member) -> None:
        self._ready.discard(member)
        new = self._pool.replace(member)
        self._begin(new, self._became_ready, "ready", str(self._folder.absolute()), self._sweep.key)

    def _prune_rest(self, pruned: Trial) -> None:
        """Leave out the other seeds of a setting that has been given up."""
        for trial in self._sweep.trials:
            if trial.setting == pruned.setting and trial.state == "PENDING":
                self._standings.change(trial, "PRUNED")

    def _send_standing(self, member: Member) -> None:
        """Have the process that has ended a trial, and so has imported mlflow, bring the parent run up to date."""
        standing = self._plan.standing()
        if standing is not None and not self._stopping:
            self._begin(member, self._standing_sent, "send_standing", self._uri, standing)

    def _standing_sent(self, done: Done) -> None:
        problem = str(done.error) if done.error is not None else done.value
        if done.error is not None:
            self._replace(done.member)
        if problem and not self._warned:
            self._warned = True
            self._observer.note(f"warning: the parent run in MLflow is not up to date: {problem}")

    def finish_standing(self) -> None:
        """Send the final state of the sweep to its parent run."""
        standing = self._plan.standing()
        member = next(iter(self._ready), None)
        if standing is None or member is None or self._uri is None:
            return
        self._observer.stage("sending the rest of the sweep to MLflow")
        self._begin(member, self._standing_sent, "send_standing", self._uri, standing)
        deadline = time.monotonic() + (self._grace_s() if self._stopping else STOPPING_S)
        while self._tasks and time.monotonic() < deadline:
            for done in self._pool.wait(POLL_S):
                self._tasks.pop(done.member)(done)

    def _grace_s(self) -> float:
        return STOPPING_S if submission_id() is None else GRACE_S

    def _stop_all(self, signum: int) -> None:
        self._stopping = True
        self._observer.stage("stopping: the trials write checkpoints")
        for member, trial in self._trials.items():
            self._pool.tell(member, "stop", trial.number, signum, self._grace_s())

    def _take_news(self) -> None:
        for member, trial in list(self._trials.items()):
            news = self._pool.ask(member, "news")
            if isinstance(news, News) and news.number == trial.number:
                self._standings.note_progress(trial, news)
                self._prune(member, trial, news)
        self._observer.progressed()

    def _prune(self, member: Member, trial: Trial, news: News) -> None:
        """Stop a trial that is not worth its end, as its newest validation shows."""
        if self._pruner is None or trial.number in self._pruned or not self._pruner.note(trial, news.records):
            return
        if self._pruner.is_hopeless(trial, self._sweep.trials):
            self._pruned.add(trial.number)
            self._pool.tell(member, "stop", trial.number, signal.SIGINT, STOPPING_S)
