"""Fault injection at exact moments, for tests of recovery; inactive unless DISTSGD_FAULTS is set in the environment.

DISTSGD_FAULTS names a JSON file with a list of faults; each is injected once, in the first process of that role to
reach it, and leaves an empty file `<number>.struck` next to it. Moments are named after what has just been done:

    worker       initializing, asked, computed, answered, validating
    server       begun, gathered, applied, validating
    aggregator   asked, gathered
    driver       journaled, checkpointed, validated, written
    endpoint     asked, computed, answered: an aggregator, when it answers a server on another node

A worker does not know after which step it validates, so a `validating` fault is injected the first time, whatever its
step. For `initializing`, the step is the number of the restart: 0 for a worker's first process, 1 for its replacement.
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
    """A signal sent to one process, by default SIGKILL."""

    role: str
    index: int
    """The worker's number; 0 for the others."""

    step: int
    """The first step, counted from 1, at which it may be injected."""

    moment: str
    signal: str = "SIGKILL"


def reached(role: str, index: int, step: int, moment: str) -> None:
    """Send this process the signal of a fault that applies here; `step` is counted from 1."""
    if _FILE is None:  # the only cost outside of tests
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
