"""How far the trials of a sweep are: in its file, in the table that is shown, and in what is told of them."""

from __future__ import annotations

from distsgd.sweeps.observer import Row, SweepObserver
from distsgd.sweeps.runner import News
from distsgd.sweeps.store import Sweep, SweepFile
from distsgd.sweeps.trial import Metric, Setting, State, Trial, best_trial, ranked, settings_of


class Standings:
    """The trials as everybody sees them: changes are in the sweep's file before an observer hears of them."""

    def __init__(self, sweep: Sweep, file: SweepFile, metric: Metric, observer: SweepObserver) -> None:
        self._sweep, self._file, self._metric, self._observer = sweep, file, metric, observer
        self._warnings: set[tuple[int, str]] = set()
        """Those that were passed on, by their trials."""
        self.rows: list[Row] = []
        """A row for each trial, in their order."""
        self.add_rows()

    def add_rows(self) -> None:
        """Add the rows of trials that are new."""
        self.rows += [self._row(trial) for trial in self._sweep.trials[len(self.rows) :]]
        order = ranked(self._sweep.trials, self._metric)
        self._mark(order[0] if order else None)

    def note_progress(self, trial: Trial, news: News) -> None:
        """Take what a trial has reported into its row, and pass its warnings on."""
        row = self.rows[trial.number - 1]
        for text in news.notes:
            self.warn(trial, text)
        if news.started is not None:
            row.epochs = news.started[1]
        for record in news.records:
            row.epoch = record["epoch"]
            row.accuracy = record.get("val/accuracy", row.accuracy)
            if "val/loss" in record:
                row.loss, row.is_validated = record["val/loss"], True
            elif not row.is_validated:
                row.loss = record.get("train/loss", row.loss)

    def warn(self, trial: Trial, text: str) -> None:
        """Pass a warning of a trial on, once."""
        if (trial.number, text) not in self._warnings:
            self._warnings.add((trial.number, text))
            self._observer.note(f"{text} (trial {trial.number})")

    def change(self, trial: Trial, state: State) -> None:
        """Note a trial's state, and which trial is the best now."""
        trial.state = state
        order = ranked(self._sweep.trials, self._metric)
        best = best_trial(order[0], self._metric) if order else None
        self._sweep.best = None if best is None else best.number
        self._file.write(self._sweep)
        new = self._row(trial)
        row = self.rows[trial.number - 1]
        row.state, row.error = new.state, new.error
        if trial.result is not None:
            row.epoch, row.loss, row.accuracy = new.epoch, new.loss, new.accuracy
        self._mark(order[0] if order else None)
        self._observer.trial_changed(row)

    def _mark(self, best: Setting | None) -> None:
        """Mark the finished trials of the best setting: settings are compared by the means over their seeds."""
        marked = set() if best is None else {trial.number for trial in best.trials if trial.state == "FINISHED"}
        for row in self.rows:
            row.is_best = row.number in marked
        for setting in settings_of(self._sweep.trials):
            finished = sum(trial.state == "FINISHED" for trial in setting.trials)
            for trial in setting.trials:
                row = self.rows[trial.number - 1]
                row.seeds, row.finished_seeds = len(setting.trials), finished

    def _row(self, trial: Trial) -> Row:
        result = trial.result or {}
        return Row(
            number=trial.number,
            parameters=trial.parameters,
            state=trial.state,
            epoch=result.get("epochs"),
            loss=result.get("val/loss"),
            accuracy=result.get("val/accuracy"),
            error=trial.error,
        )
