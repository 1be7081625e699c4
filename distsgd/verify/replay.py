"""Trains a run again, all of it or segments, and compares each state and each record with what is recorded."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from distsgd.cluster.connection import joined
from distsgd.config import Config
from distsgd.core.numerics import differing_numerics
from distsgd.data import DataSet
from distsgd.engine.confusion import Confusion
from distsgd.engine.snapshot import Snapshot
from distsgd.engine.spec import RunSpec
from distsgd.engine.validation import ALL_EXTRAS
from distsgd.errors import NonFiniteError, counted
from distsgd.run.observer import Observer
from distsgd.run.stopping import Gains
from distsgd.run.trainer import Trainer, environment, start_trainer
from distsgd.verify import segments
from distsgd.verify.comparison import Comparison
from distsgd.verify.recorded import Recorded
from distsgd.verify.report import Report
from distsgd.verify.segments import Segment


@dataclass
class Trained:
    """What training again came to."""

    spec: RunSpec
    last: Snapshot
    """The state after the last step of the last segment."""
    kept: Snapshot
    """The state whose weights a run keeps: the best with early stopping, otherwise the last."""
    bests: set[int] = field(default_factory=set)
    """The steps that were the best by then, with early stopping."""
    metrics: dict[int, dict[str, Any]] = field(default_factory=dict)
    """What validations measured, by step."""
    confusion: Confusion | None = None
    """Of the classes of the held-out rows, with the weights that are kept."""


def replay(
    recorded: Recorded, config: Config, data: DataSet, report: Report, observer: Observer, count: int | None
) -> tuple[Trained, Comparison]:
    """Train again as `config` says, all of a run, or `count` segments of it; report all differences.

    ResourceError or TrainingError if that cannot be done here.
    """
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(joined(config, environment(config)))
        spec, trainer = start_trainer(config, data, None, cluster, stack, observer.stage, name="distsgd verify")
        portable = spec.net.arithmetic == "portable"
        others = (differing_numerics(known, trainer.numerics) for known in recorded.numerics if not portable)
        other = next((text for text in others if text is not None), None)
        if other is not None:
            report.notes.append(f"this machine computes otherwise than the recorded one: {other}")
        comparison = Comparison(recorded, spec.net, report, other)
        end = min(recorded.end, spec.plan.total_steps)
        if recorded.end > end:
            report.differs("journal", f"it goes on to step {recorded.end}, and the run has {counted(end, 'step')}")
        parts, there = segments.whole(end), 1
        if count is not None:
            starts = {0, *recorded.checkpoints}
            parts, there = segments.chosen(starts, {*recorded.states, *recorded.checkpoints}, count)
            report.compared.append(f"{len(parts)} of {counted(there, 'segment')}")
        replayed = _Replay(recorded, spec, trainer, comparison, observer, end)
        trained = Trained(spec, spec.start, spec.start)
        try:
            for number, part in enumerate(parts):
                start = recorded.checkpoints[part.start] if part.start else spec.start
                if number or part.start:
                    trainer.recover(start)
                replayed.train(part, start, trained)
        except NonFiniteError as error:
            report.differs("state", f"training again does not come to step {end}: {error}")
        if count is None:
            replayed.check_nothing_is_left_over(report)
        return trained, comparison


class _Replay:
    """Trains segments of a run with a trainer."""

    def __init__(
        self,
        recorded: Recorded,
        spec: RunSpec,
        trainer: Trainer,
        comparison: Comparison,
        observer: Observer,
        end: int,
    ) -> None:
        self._recorded, self._plan, self._trainer, self._comparison = recorded, spec.plan, trainer, comparison
        self._observer, self._end, train = observer, end, spec.config.train
        self._logged = spec.plan.logged_steps(end)
        self._lines_until = end if recorded.is_finished else max(recorded.records, default=0)
        self._gains = None
        if train.early_stopping is not None:
            self._gains = Gains(f"val/{train.stopping_metric}", train.early_stopping, train.min_gain)
        self._seen: set[int] = set()

    def train(self, part: Segment, start: Snapshot, trained: Trained) -> None:
        """Train a segment, and note in `trained` what it comes to."""
        self._comparison.state(start)
        trained.last = start
        if self._gains is None:
            trained.kept = start
        step = part.start
        if self._plan.total_steps == 0:  # a run that only validates its initial weights
            self._compare_records([], trained)
        while step < part.stop:
            target = self._next(step, part.stop)
            self._observer.stage(f"training again: step {target:,} of {part.stop:,}")
            step = self._trainer.run(target, self._tick)
            trained.last = self._trainer.snapshot()
            self._compare_records(self._trainer.take_records(), trained)
            if self._gains is None or self._gains.best_step == step:
                trained.kept = trained.last
            self._comparison.state(trained.last)

    def _next(self, step: int, stop: int) -> int:
        """Return the next step after which something is to be compared: an epoch's end, or a recorded state."""
        states = {*self._recorded.states, *self._recorded.checkpoints, *self._recorded.best}
        return min(self._plan.epoch_end(step), stop, *(known for known in states if known > step))

    def _tick(self) -> None:
        self._trainer.take_notices()

    def _compare_records(self, records: Sequence[dict[str, Any]], trained: Trained) -> None:
        """Compare the records up to the state that training has come to, the last one with its validation."""
        state, plan = trained.last, self._plan
        early_end = state.step in self._recorded.states and not plan.is_evaluated(state.step)
        validated = early_end or plan.is_evaluated(state.step)
        for record in records:
            if record["step"] in self._logged and not (validated and record["step"] == state.step):
                self._compare(record)
        if validated:
            record = {"step": state.step, "epoch": plan.epoch(state.step)}
            if state.last_record.get("step") == state.step:
                record = state.last_record
            self._compare(record | self._validate(state.step, trained, early_end=early_end), early_end=early_end)

    def _validate(self, step: int, trained: Trained, *, early_end: bool) -> dict[str, Any]:
        """Return what the validation after a step measures; early stopping does not count that of an early end."""
        measured = self._trainer.evaluate(self._tick, ALL_EXTRAS)
        metrics: dict[str, Any] = {} if measured is None else dict(measured.metrics)
        if self._gains is not None and self._gains.metric in metrics and not early_end:
            self._gains.note(step, metrics[self._gains.metric])
            if self._gains.best_step == step:
                trained.bests.add(step)
        trained.metrics[step] = metrics
        if self._gains is None or self._gains.best_step == step:
            trained.confusion = None if measured is None else measured.confusion
        return metrics

    def _compare(self, record: dict[str, Any], *, early_end: bool = False) -> None:
        self._seen.add(record["step"])
        if record["step"] <= self._lines_until:
            self._comparison.record(record, early_end=early_end)

    def check_nothing_is_left_over(self, report: Report) -> None:
        """Report lines of the journal for steps that are not logged; only after all of a run was trained again."""
        for step in self._recorded.records:
            if step not in self._seen and step <= self._end:
                report.differs("journal", f"it has a line for step {step}, which this run does not log")
