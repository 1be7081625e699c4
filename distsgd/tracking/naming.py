"""What differs from the defaults: a run's name, its parameters, and the command that repeats it."""

from __future__ import annotations

import json
import shlex
from typing import Any

from distsgd.config import Config
from distsgd.config.config import RESULT_SECTIONS
from distsgd.data.remedies import setting

DECIDED = ("run.workers", "run.device")
"""Parameters that are always logged, because a run decides them if they are not set."""

ROWS = ("data.train", "data.val")
"""Keys that name the rows; they are not part of a run's name."""

OPTIONS = {"data.train": "--data", "data.val": "--val", "run.workers": "--workers", "run.device": "--device"}
"""Keys that have an option of their own."""

MAX_NAME = 100
"""Characters of a run's name."""


def parameters(config: Config) -> dict[str, str]:
    """Return the parameters that differ from their defaults, or were decided, in the order of the sections."""
    defaults = Config().flat()
    values = config.parameters()
    return {key: _text(value) for key, value in values.items() if value != defaults[key] or key in DECIDED}


def run_name(config: Config, folder: str) -> str:
    """Return `run.name`, or what differs from the defaults (`hidden=256 lr=0.2`), or the name of the run directory."""
    if config.run.name:
        return config.run.name
    defaults = Config().flat()
    differing = [
        f"{key.partition('.')[2]}={_text(value)}"
        for key, value in config.parameters().items()
        if key.split(".")[0] in RESULT_SECTIONS and key not in ROWS and value != defaults[key]
    ]
    name = " ".join(differing) or folder
    return name if len(name) <= MAX_NAME else name[: MAX_NAME - 1] + "…"


def command(config: Config, *, on_cpu: bool = False) -> str:
    """Return the command that trains with this configuration; a GPU that was decided on is part of it.

    With `on_cpu` it names the CPU as well, if that is what the configuration has, for a machine that has a GPU.
    """
    defaults = Config().flat()
    words = ["distsgd", "train"]
    for key, value in config.parameters().items():
        if value != defaults[key] and (on_cpu or (key, value) != ("run.device", "cpu")):
            words.append(f"{OPTIONS[key]} {shlex.quote(_text(value))}" if key in OPTIONS else _setting(key, value))
    return " ".join(words)


def _setting(key: str, value: Any) -> str:
    """Return `--set KEY=VALUE`, as the command line reads a text, a list of names or any other value."""
    if isinstance(value, str | list):
        return setting(key, value)
    return f"--set {shlex.quote(f'{key}={_text(value)}')}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
