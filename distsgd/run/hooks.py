"""Hooks that are called in order at the end of each epoch, and what looks at a run within one.

A hook that adds a metric puts it into `EpochEnd.metrics`, and comes before the one that journals them. A hook that
ends training returns the reason; the hooks after it are still called, and the first reason counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from distsgd.engine.confusion import Confusion
from distsgd.engine.plan import Plan
from distsgd.engine.snapshot import Snapshot
from distsgd.engine.validation import ALL_EXTRAS
from distsgd.errors import TrainingError
from distsgd.run.checkpointing import Checkpointing
from distsgd.run.ending import Reason
from distsgd.run.log import RunLog
from distsgd.run.trainer import Trainer
from distsgd.rundir.proof_writer import ProofWriter
from distsgd.system import faults


@dataclass(kw_only=True)
class EpochEnd:
    """The end of an epoch, or of a run that ends within one."""

    snapshot: Snapshot
    """The current state of training."""
    is_evaluated: bool
    """Whether this state is to be validated; if so, a hook journals its record together with the metrics."""
    is_last: bool
    """Whether the run ends here."""
    tick: Callable[[], None]
    """To be called several times a second by hooks that take long."""
    interrupted: bool = False
    """Whether a signal interrupted the validation; then nothing is journalled, and --resume repeats it."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Metrics measured by hooks, by their names in the journal."""
    confusion: Confusion | None = None
    """Of the classes of the held-out rows."""

    @property
    def step(self) -> int:
        """Number of steps completed."""
        return self.snapshot.step


EpochHook = Callable[[EpochEnd], Reason | None]


class StepCheck(Protocol):
    """Looks at a run every few steps, whatever its trainer, and may end it."""

    every: int
    """Steps between two looks."""

    def __call__(self, records: Sequence[Mapping[str, Any]]) -> Reason | None:
        """Return the reason to end training after the last step of the journal's records, or None."""
        ...


def standard_hooks(
    trainer: Trainer,
    plan: Plan,
    log: RunLog,
    proof: ProofWriter,
    checkpointing: Checkpointing,
    stopping: EpochHook | None = None,
) -> list[EpochHook]:
    """Return the hooks of every run: validate, stop early if that is asked for, journal, prove, checkpoint."""
    return [
        partial(validate, trainer),
        *([stopping] if stopping is not None else []),
        partial(journal, plan, log),
        partial(prove, proof),
        partial(write_checkpoint, checkpointing),
    ]


def validate(trainer: Trainer, end: EpochEnd) -> Reason | None:
    """Measure the held-out rows, and count the confusion of the classes; TrainingError if a metric is not finite."""
    if not end.is_evaluated:
        return None
    measured = trainer.evaluate(end.tick, ALL_EXTRAS)
    if measured is None:
        end.interrupted = True
        return Reason.STOPPED
    if not all(math.isfinite(value) for value in measured.metrics.values()):
        raise TrainingError(
            f"the validation loss after step {end.step} is not finite, although that of the mini-batches is: the "
            "weights have grown too large (lower optim.lr), or the held-out rows have huge values (leave such rows "
            "out, or normalise them with data.normalize); then start a new run. The checkpoint is that of this step"
        )
    end.metrics.update(measured.metrics)
    end.confusion = measured.confusion
    faults.reached("driver", 0, end.step, "validated")
    return None


def journal(plan: Plan, log: RunLog, end: EpochEnd) -> None:
    """Journal the step's record together with the metrics."""
    if end.interrupted or not end.is_evaluated:
        return
    trained = end.snapshot.last_record
    record = trained if trained.get("step") == end.step else {"step": end.step, "epoch": plan.epoch(end.step)}
    log.write(record | end.metrics)


def prove(proof: ProofWriter, end: EpochEnd) -> None:
    """Write the digests of the state, and of the journal up to its record, into the proof."""
    if not end.interrupted and end.is_evaluated:
        proof.append(end.snapshot)


def write_checkpoint(checkpointing: Checkpointing, end: EpochEnd) -> None:
    """Queue a checkpoint of the state."""
    checkpointing.submit(end.snapshot)
