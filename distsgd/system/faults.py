"""Deaths and stops at exact moments, for tests of recovery; without DISTSGD_FAULTS in the environment nothing happens.

DISTSGD_FAULTS names a JSON file with a list of faults; each strikes once, in whichever process of that role gets there
first, and leaves an empty file `<number>.struck` beside it. Moments are named by what has just been done, not by time:

    worker       initializing, asked, computed, answered, validating
    server       begun, gathered, applied, validating
    aggregator   asked, gathered
    driver       journaled, checkpointed, validated, written

A worker does not know after which step it validates: it is struck the first time, whatever the fault's step. For
`initializing` the step is the number of the restart: 0 for a worker's first process, 1 for the one in its place.
"""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "DISTSGD_FAULTS"

_FILE = os.environ.get(VARIABLE) or None


def environment() -> dict[str, str]:
    """Return the variable, if it is set, for processes on other nodes."""
    return {VARIABLE: _FILE} if _FILE else {}


@dataclass(frozen=True)
class Fault:
    """One death or stop."""

    role: str
    index: int
    """The worker's number; 0 for the others."""

    step: int
    """The first step, counted from 1, at which it may strike."""

    moment: str
    signal: str = "SIGKILL"


def reached(role: str, index: int, step: int, moment: str) -> None:
    """Strike this process if a fault says so; `step` is counted from 1."""
    if _FILE is None:  # in every run but a test's: this is all that it pays
        return
    path = Path(_FILE)
    for number, fault in enumerate(Fault(**entry) for entry in json.loads(path.read_text())):
        if (fault.role, fault.index, fault.moment) != (role, index, moment) or step < fault.step:
            continue
        try:
            os.close(os.open(path.parent / f"{number}.struck", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            continue
        os.kill(os.getpid(), signal.Signals[fault.signal])
