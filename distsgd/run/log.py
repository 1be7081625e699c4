"""Logging of a run: its journal, the observer that is notified of each line, and its warnings."""

from __future__ import annotations

from typing import Any

from distsgd.engine.plan import Plan
from distsgd.run.observer import Observer
from distsgd.rundir.journal import Journal, difference
from distsgd.system import faults
from distsgd.tracking.tracker import NoTracker

NAMED_STEPS = 5
"""Maximum number of missing steps that a warning names."""


class RunLog:
    """Writes a run's journal, notifies the observer of each line, and collects the warnings for the result."""

    def __init__(self, journal: Journal, plan: Plan, observer: Observer, *, start: int) -> None:
        """`start` is the step that the run starts from; warn if journal lines up to it are missing."""
        self._journal, self._plan, self._observer = journal, plan, observer
        self.warnings: list[str] = []
        self.validated: dict[str, float] = {}
        """The newest validation's loss and scores, by their names in the journal; empty if there was none."""
        self._unwritten: list[dict[str, Any]] = []
        self._warned_of_difference = False
        have = [record for record in journal.records() if record["step"] <= start]
        for record in have:
            self._note_validation(record)
        self._warn_of_missing_lines({record["step"] for record in have}, start)

    def note(self, text: str) -> None:
        """Show a message to the user."""
        self._observer.note(text)

    def stage(self, text: str) -> None:
        """Show what the run does now that training is over."""
        self._observer.stage(text)

    def take_from(self, tracker: NoTracker) -> None:
        """Pass on what a tracker has to tell: that the store failed, or where the run is shown."""
        warning, link = tracker.take_warning(), tracker.take_link()
        if warning is not None:
            self.note(f"warning: {warning}")
        if link is not None:
            self.tracked(link)

    def tracked(self, link: str) -> None:
        """Tell the user where the run is shown."""
        self._observer.tracked(link)

    def warn(self, text: str) -> None:
        """Show a warning and record it for the result."""
        self.warnings.append(text)
        self.note(f"warning: {text}")

    def _warn_of_missing_lines(self, have: set[int], start: int) -> None:
        """Warn if lines up to `start` are missing, which were on disk before the checkpoint of that step was."""
        expected = self._plan.logged_steps(start)
        if self._plan.is_evaluated(start):  # after a stop, this step's validation and line are still to be done
            expected.discard(start)
        missing = sorted(expected - have)
        if not missing:
            return
        named = ", ".join(map(str, missing[:NAMED_STEPS])) + (", ..." if len(missing) > NAMED_STEPS else "")
        lines = "1 line" if len(missing) == 1 else f"{len(missing):,} lines"
        self.warn(
            f"the journal {str(self._journal.path)!r} lacks {lines} up to step {start}, from which the run continues: "
            f"steps {named}. They were lost after being written, and are not computed again; the weights "
            "do not depend on them"
        )

    def lacks_validation(self, step: int) -> bool:
        """Return whether `step` ends an epoch that has to be validated and is not yet in the journal."""
        last = self._journal.last_step
        return self._plan.is_evaluated(step) and (last is None or last < step)

    def write_records(self, records: list[dict[str, Any]]) -> None:
        """Journal the trainer's records; records that could not be written are kept and retried first next time."""
        self._unwritten += records
        while self._unwritten:
            if not self._plan.is_evaluated(self._unwritten[0]["step"]):  # else its validation completes the record
                self.write(self._unwritten[0])
            self._unwritten.pop(0)

    def write(self, record: dict[str, Any]) -> None:
        """Journal a record; warn if it differs from a line that was written before an interruption."""
        line = self._journal.append(record)
        key = difference(line, record)
        if key is not None and not self._warned_of_difference:
            self._warned_of_difference = True
            self.warn(
                f"step {record['step']} was computed again after an interruption and {key} is {record[key]!r} now, "
                f"where the journal has {line.get(key)!r}: this machine rounds differently from the one "
                "before; set run.blas_kernel to use one kernel on both"
            )
        self._note_validation(record)
        self._observer.logged(line)
        faults.reached("driver", 0, record["step"], "journaled")

    def _note_validation(self, record: dict[str, Any]) -> None:
        if "val/loss" in record:
            self.validated = {key: value for key, value in record.items() if key.startswith("val/")}

    def records(self, until: int) -> list[dict[str, Any]]:
        """Return the journal's lines up to step `until`."""
        return [record for record in self._journal.records() if record["step"] <= until]

    def sync(self) -> None:
        """Flush all lines to disk."""
        self._journal.sync()
