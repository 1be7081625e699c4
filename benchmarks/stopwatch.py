"""Times functions of a program from outside: the time spent in each, minus that in timed functions it calls."""

from __future__ import annotations

import functools
import importlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any


class Stopwatch:
    """Sums seconds by phase, in the thread that created it. Timing a call adds about half a microsecond."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._in_callees = [0.0]
        self._thread = threading.get_ident()

    def reset(self) -> None:
        """Reset all sums to zero; must not be called from within a timed function."""
        self.seconds.clear()

    def timed(self, function: Callable[..., Any], phase: str) -> Callable[..., Any]:
        """Return `function` with its time added to `phase`."""
        clock, in_callees, seconds = time.perf_counter, self._in_callees, self.seconds

        @functools.wraps(function)
        def call(*arguments: Any, **keywords: Any) -> Any:
            if threading.get_ident() != self._thread:
                return function(*arguments, **keywords)
            in_callees.append(0.0)
            began = clock()
            try:
                return function(*arguments, **keywords)
            finally:
                took = clock() - began
                seconds[phase] += took - in_callees.pop()
                in_callees[-1] += took

        return call

    def install(self, hooks: Mapping[str, str]) -> None:
        """Replace functions in this process with timed ones; a hook is `module:name` or `module:Class.name`.

        Raises LookupError if there is no such function: the program has changed and the table of hooks has not.
        """
        for hook, phase in hooks.items():
            owner, name = find(hook)
            setattr(owner, name, self.timed(getattr(owner, name), phase))


def find(hook: str) -> tuple[Any, str]:
    """Return the owner of the function that a hook names, and its name there. Raises LookupError if there is none."""
    module, _, path = hook.partition(":")
    *classes, name = path.split(".")
    owner: Any = importlib.import_module(module)
    for part in classes:
        owner = getattr(owner, part, None)
    if not callable(getattr(owner, name, None)):
        raise LookupError(f"there is no {hook} to time any more; correct the table that names it")
    return owner, name
