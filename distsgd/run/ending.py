"""How a run can end: a fixed set of reasons, and what each means for the result and the caller."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from distsgd.engine.diagnosis import offending_rows
from distsgd.engine.snapshot import Snapshot
from distsgd.engine.spec import RunSpec
from distsgd.errors import NonFiniteError, Stopped
from distsgd.rundir.result import Status
from distsgd.system.jobs import resume_command
from distsgd.system.signals import StopRequest


class Reason(Enum):
    """Why a run ends. A new reason to end training early becomes another member."""

    COMPLETE = "complete"
    NO_GAIN = "validations bring no gain any more"
    DIVERGED = "the loss has grown too large for a learning-rate range test"
    STOPPED = "stopped by a signal"
    FAILED = "failed"

    @property
    def status(self) -> Status:
        """The status in the result and in MLflow. Only a FINISHED run has a model; it cannot be resumed."""
        return STATUS[self]


STATUS: dict[Reason, Status] = {
    Reason.COMPLETE: "FINISHED",
    Reason.NO_GAIN: "FINISHED",
    Reason.DIVERGED: "FINISHED",
    Reason.STOPPED: "KILLED",
    Reason.FAILED: "FAILED",
}


@dataclass(frozen=True)
class End:
    """The end of a run: its reason, and the error that the caller gets, if any."""

    reason: Reason
    error: BaseException | None = None
    """Raised once the result is on disk; it determines the exit code. None: the result is returned."""


def stopped_in_training(signum: int, *, step: int, total_steps: int, run_dir: Path) -> Stopped:
    """Return the error for a run that was stopped by a signal after `step` steps."""
    return Stopped(
        f"stopped by {signal.Signals(signum).name} after step {step} of {total_steps}; "
        f"continue with: {resume_command(run_dir)}",
        signum=signum,
    )


def stopped_at_once() -> Stopped:
    """Return the error for a run that was stopped before it could finish its step."""
    return Stopped("stopped at once by a second Ctrl-C; continue with --resume")


def explained(error: NonFiniteError, spec: RunSpec, state: Snapshot) -> NonFiniteError:
    """Return `error` with the rows that caused it in the step after `state`, and advice on what to do."""
    where = offending_rows(spec, state)
    advice = "A lower optim.lr, a warm-up (optim.warmup_steps) or data.normalize=standard usually helps"
    if spec.config.model.loss == "squared":
        advice += ". Labels are not normalised: divide large ones, so that they are near 1"
    return NonFiniteError(
        f"{error}, {where}. The step was not applied; the parameters before it are in the newest checkpoint. {advice}"
    )


LEAST_S = 0.5
"""Minimum seconds to wait for MLflow, even if stopping took longer than the grace period of the request."""


def grace_is_over(request: StopRequest, began: float) -> bool:
    """Return whether the grace period after a request to stop is over; `began` is when the run began to wait."""
    return request.age_s() > request.grace_s and time.monotonic() - began > LEAST_S
