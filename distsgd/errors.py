"""The exceptions that distsgd raises deliberately, and their exit codes.

    DistsgdError
    ├── RefusedError            exit 2: nothing was started; the user can correct it
    │   ├── ConfigError         a key, a value, or two values that contradict each other
    │   ├── DataError           the rows, or their labels, cannot be trained on
    │   ├── ResourceError       more CPUs, GPUs or nodes than there are; no such cluster; no such device
    │   └── RunDirectoryError   the run directory holds another run, or another driver uses it
    ├── TrainingError           exit 1: the run had begun; what was trained is in its newest checkpoint
    │   ├── NonFiniteError      a loss or a gradient is not a number; the step was not applied
    │   ├── WorkerLostError     a worker died, and no other can take its place
    │   └── ServerLostError     the parameter server died
    ├── CheckpointError         exit 1: a checkpoint could not be written
    ├── ExportError             exit 1: an exported model would not predict the same, and was not written
    ├── TrackingError           exit 1: `distsgd sync` could not log a run to MLflow
    ├── JobError                exit code of the job: it failed, was stopped, or was lost sight of
    └── Stopped                 exit 129, 130 or 143: SIGHUP, Ctrl-C or SIGTERM; resumable

Every message says what was found, what was expected, and what to do.
"""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MAX_DATA_MESSAGE = 1_200
"""Characters of a line of a DataError; of a longer one the beginning (the file) and the end (the remedy) are kept."""

TITLES = ("what to do:", "how they were read:")
"""Lines of a DataError above what to do about its problems, and above what was found out about its files."""

SHOWN_PROBLEMS = 20
"""Problems that a DataError lists."""


class DistsgdError(Exception):
    """Base class of all deliberate errors. `exit_code` is the exit code of the command line."""

    exit_code = 1


class RunWarning(UserWarning):
    """What `distsgd.train` warns of in Python where no progress is shown, such as a column that looks like an index."""


class RefusedError(DistsgdError):
    """The input, the configuration or the resources were refused before the first step."""

    exit_code = 2


class ConfigError(RefusedError):
    """A configuration key or value is wrong."""


@dataclass(frozen=True)
class Problem:
    """One of the things that are wrong with rows: a line of a DataError."""

    text: str
    """The file, the row if it is about one, what was found, and what was expected."""

    remedies: tuple[str, ...] = ()
    """What to do about it; what several problems have in common is said once."""

    kind: str = ""
    """What it is about, such as `label` or `missing`: one problem of a kind is told for a column of a file."""

    columns: tuple[str, ...] = ()
    """The columns it is about."""

    repair: tuple[str, str] | None = None
    """What a command can do about it: in words, and as a change of a frame `d` of pandas."""


class DataError(RefusedError):
    """The data cannot be trained on.

    The message is one line or, with `problems`, a line that counts them, one for each, and one for each thing to do; no
    line is longer than MAX_DATA_MESSAGE or broken, whatever names the files, columns and types have.
    """

    def __init__(self, message: str = "", problems: Sequence[Problem] = (), notes: Sequence[str] = ()) -> None:
        super().__init__(message, tuple(problems), tuple(notes))
        self.problems, self.notes = tuple(problems), tuple(notes)
        self._message = message

    def __str__(self) -> str:
        if not self.problems:
            return _line("; ".join((self._message, *self.notes)))
        count, more = len(self.problems), len(self.problems) - SHOWN_PROBLEMS
        found = "a problem was" if count == 1 else f"{count:,} problems were"
        listed = [problem.text for problem in self.problems[:SHOWN_PROBLEMS]]
        listed += [f"and {more:,} more"] if more > 0 else []
        lines = [f"the rows cannot be trained on as they are; {found} found:", *_items(listed)]
        remedies = dict.fromkeys(remedy for problem in self.problems for remedy in problem.remedies)
        for title, texts in zip(TITLES, (remedies, self.notes), strict=True):
            lines += [title, *_items(texts)] if texts else []
        return "\n".join(lines)


def _items(texts: Iterable[str]) -> list[str]:
    return [f"  - {_line(text)}" for text in texts]


def _line(text: str) -> str:
    line = printable(text)
    return line if len(line) <= MAX_DATA_MESSAGE else f"{line[: MAX_DATA_MESSAGE - 500]} … {line[-500:]}"


class ResourceError(RefusedError):
    """The machine or the cluster does not have the resources that were asked for."""


class RunDirectoryError(RefusedError):
    """The run directory cannot be used."""


class TrainingError(DistsgdError):
    """Training failed after it had begun."""


class NonFiniteError(TrainingError):
    """A loss or a gradient is infinite or not a number; the step was not applied."""


class WorkerLostError(TrainingError):
    """A worker died or stopped answering."""


class ServerLostError(TrainingError):
    """The parameter server died or stopped answering."""


class CheckpointError(DistsgdError):
    """A checkpoint could not be written."""


class ExportError(DistsgdError):
    """An exported model does not predict what the model does."""


class TrackingError(DistsgdError):
    """A run could not be logged to MLflow."""


class JobError(DistsgdError):
    """A job on a cluster failed, was stopped, or nothing is known of it any more."""

    def __init__(self, message: str, *, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Stopped(DistsgdError):  # noqa: N818 - a request to stop is not an error
    """The run was asked to stop by a signal; it has checkpointed and can be resumed."""

    def __init__(self, message: str, *, signum: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.signum = signum

    @property
    def exit_code(self) -> int:  # type: ignore[override]
        """128 plus the signal's number, as a shell reports it: 129 for SIGHUP, 130 for SIGINT, 143 for SIGTERM."""
        return 128 + int(self.signum)


def printable(text: str) -> str:
    """Return a text of others, such as a name, in one line that controls no terminal: other characters are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def counted(count: float, thing: str, things: str = "") -> str:
    """Return `1 worker`, `2 workers`; `things` is the plural if it is another than with an `s`."""
    number = f"{count:,}" if isinstance(count, int) else f"{count:g}"
    return f"{number} {thing if count == 1 else things or f'{thing}s'}"


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ` (did you mean 'x'?)` for the known word most similar to `word`, or an empty string if none is."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {matches[0]!r}?)" if matches else ""
