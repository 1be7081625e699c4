"""The ends of a run: a closed set of reasons, and what each means for the result and for the caller."""

from __future__ import annotations

import shlex
import signal
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from distsgd.errors import Stopped
from distsgd.rundir.result import Status


class Reason(Enum):
    """Why a run ends. A reason that ends training well before its last step is another member here."""

    COMPLETE = "complete"
    STOPPED = "stopped by a signal"
    FAILED = "failed"

    @property
    def status(self) -> Status:
        """The status in the result and in MLflow. Only a run that is FINISHED has a model, and cannot be resumed."""
        return STATUS[self]


STATUS: dict[Reason, Status] = {Reason.COMPLETE: "FINISHED", Reason.STOPPED: "KILLED", Reason.FAILED: "FAILED"}


@dataclass(frozen=True)
class End:
    """The end of a run: its reason, and what the caller gets."""

    reason: Reason
    error: BaseException | None = None
    """What is raised once the result is on disk; its exit code is the command's. None: the result is returned."""


def stopped_in_training(signum: int, *, step: int, total_steps: int, run_dir: Path) -> Stopped:
    """Return the error of a run that a signal has stopped after `step` of its steps."""
    return Stopped(
        f"stopped by {signal.Signals(signum).name} after step {step} of {total_steps}; "
        f"continue with: distsgd train --resume --run-dir {shlex.quote(str(run_dir))}",
        signum=signum,
    )


def stopped_at_once() -> Stopped:
    """Return the error of a run that was not given the time to end its step."""
    return Stopped("stopped at once by a second Ctrl-C; continue with --resume")
