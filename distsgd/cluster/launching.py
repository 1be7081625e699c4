"""Starting the actors of a run, each with a name that says of which run it is and what it does."""

from __future__ import annotations

import itertools
import secrets
from typing import Any, NamedTuple

import ray

CALLS_NOT_RECORDED = {"enable_task_events": False}
"""Options for all actors: Ray would record every call of theirs, which took 60 MiB of the head node in an hour."""


class Label(NamedTuple):
    """What Ray shows of an actor: in its lists and dashboard, before lines of its log, and with its metrics."""

    run: str
    role: str
    """What the messages of a run call it, such as `worker 1`."""

    def __str__(self) -> str:
        return f"{self.run}: {self.role}"


class Labelled:
    """What an actor that has a label shows of itself."""

    _label: Label

    def __repr__(self) -> str:
        """Return what Ray puts before lines of the actor's log."""
        return str(self._label)


class Launcher:
    """Starts actors for one run."""

    def __init__(self, run: str, runtime_env: dict[str, Any]) -> None:
        """`run` is the name of the run.

        Ray refuses a second actor of the same name in a namespace, which all processes of a job share, even while the
        first one ends. Several of them may train runs of one name, so the names of actors end in a random number.
        """
        self._run, self._token, self._runtime_env = run, secrets.token_hex(3), runtime_env
        self._processes: dict[str, itertools.count[int]] = {}

    def start(self, kind: type, role: str, *, options: dict[str, Any], **values: Any) -> Any:
        """Start an actor of class `kind` in a process of its own, with `values` and its `label`; return its handle.

        A later process with the same role has its number in its name.
        """
        label, number = Label(self._run, role), next(self._processes.setdefault(role, itertools.count(1)))
        process = "" if number == 1 else f"process {number}, "
        options = options | {"name": f"{label} ({process}{self._token})", "runtime_env": self._runtime_env}
        actor: Any = ray.remote(kind).options(**options, **CALLS_NOT_RECORDED).remote(label=label, **values)
        return actor
