"""`sweep.json` in the directory of a sweep: its search space and its trials, from which it is resumed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from distsgd.config import Config
from distsgd.errors import TrainingError, counted
from distsgd.rundir import folders
from distsgd.rundir.refusals import refusing
from distsgd.sweeps.space import MAX_TRIALS, SEED, Method, Space
from distsgd.sweeps.trial import Trial
from distsgd.system.files import read_file, write_atomically
from distsgd.version import __version__

FILE = folders.SWEEP

MAX_BYTES = 2**32
"""The largest file that is read: each of thousands of trials names all columns of the rows."""

SEALED = b'{\n "sealed": true,'
"""How a file begins that has a digest at its end; neither is lost by a change of one bit without being missed."""

MARK = b',\n "sha256": "'
"""What stands before the digest of all that stands before this."""


@dataclass(kw_only=True)
class Sweep:
    """The content of `sweep.json`."""

    version: str = __version__
    key: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Identifies the sweep, wherever its directory is moved to."""
    parent: str
    """Name of the parent run in MLflow."""
    status: Literal["RUNNING", "FINISHED", "FAILED", "KILLED"] = "RUNNING"
    space: Space
    method: Method
    prune: bool
    requested: dict[str, Any]
    """The configuration that all trials share, by dotted keys, as it was asked for."""
    data_digests: list[str] = field(default_factory=list)
    """Those of the rows, in the order in which the trials first need them."""
    best: int | None = None
    """Number of the best trial so far."""
    trials: list[Trial] = field(default_factory=list)

    @property
    def base(self) -> Config:
        """The configuration that all trials share."""
        return Config.build(self.requested)


class SweepFile:
    """The file in a sweep's directory, which is written whole at each change.

    It has a line for each trial, and the line of one that has not changed since the last time is not made again: with
    thousands of trials that would take longer than to train them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lines: dict[int, tuple[Trial, str]] = {}
        """What was written of each trial, by its number."""

    def write(self, sweep: Sweep) -> None:
        """Write the file, atomically, readable only by its owner; TrainingError if that fails.

        Like the files of a run it holds no secrets. Its last line has the digest of those before.
        """
        head = {"sealed": True} | dataclasses.asdict(dataclasses.replace(sweep, trials=[]))
        del head["trials"]
        lines = ",\n  ".join(self._line(trial) for trial in sweep.trials)
        text = json.dumps(head, indent=1, allow_nan=False).removesuffix("\n}") + f',\n "trials": [\n  {lines}\n ]'
        content = text.encode()
        content += _seal(content)
        try:
            write_atomically(self.folder / FILE, content, private=True)
        except OSError as error:
            raise TrainingError(
                f"{str(self.folder / FILE)!r} could not be written: {error.strerror}; make room and use --resume"
            ) from None

    def _line(self, trial: Trial) -> str:
        known = self._lines.get(trial.number)
        if known is None or known[0] != trial:
            known = dataclasses.replace(trial), json.dumps(dataclasses.asdict(trial), allow_nan=False)
            self._lines[trial.number] = known
        return known[1]


def read(path: Path) -> Sweep:
    """Return what the file in a directory says; RunDirectoryError if there is none, or if it cannot be read."""
    with refusing(path, FILE, "sweep"):
        content = read_file(path / FILE, max_bytes=MAX_BYTES)
        text, mark, _ = content.rpartition(MARK)
        if (mark or content.startswith(SEALED)) and content != text + _seal(text):  # earlier versions have neither
            raise ValueError("it is not as it was written")
        if not mark and {"sealed", "sha256"} & set(json.loads(content)):
            raise ValueError("it has been edited")
        sweep = TypeAdapter(Sweep).validate_json(content, strict=True)
        _check(sweep)
    for trial in sweep.trials:
        trial.run_dir = str(trial_dir(path, trial.number))
    return sweep


def _seal(text: bytes) -> bytes:
    return MARK + hashlib.sha256(text).hexdigest().encode() + b'"\n}\n'


def _check(sweep: Sweep) -> None:
    """Raise ValueError if the trials are not those that the space would have."""
    space, trials = sweep.space, sweep.trials
    if space.settings * space.seeds > MAX_TRIALS:
        raise ValueError(
            f"it is to have {counted(space.settings * space.seeds, 'trial')}, and at most {MAX_TRIALS} are possible"
        )
    if space.settings < 1 or space.seeds < 1 or len(trials) > space.settings * space.seeds:
        raise ValueError(
            f"it has {counted(len(trials), 'trial')}, for {counted(space.settings, 'setting')} with "
            f"{counted(space.seeds, 'seed')} each"
        )
    keys = {*space.keys, SEED} if space.seeds > 1 else {*space.keys}
    for place, trial in enumerate(trials):
        if (trial.number, trial.setting) != (place + 1, place // space.seeds):
            raise ValueError(
                f"trial {place + 1} has the number {trial.number} and the setting {trial.setting}, and should have the "
                f"setting {place // space.seeds}"
            )
        if set(trial.parameters) != keys:
            raise ValueError(f"trial {trial.number} has other parameters than the sweep varies")
    if sweep.best is not None and not 1 <= sweep.best <= len(trials):
        raise ValueError(f"the best trial is said to be number {sweep.best}, and there are {len(trials)}")


def trial_dir(path: Path, number: int) -> Path:
    """Return the run directory of a trial."""
    return path.absolute() / f"trial-{number:03}"
