"""What is said of a directory whose files cannot be read or written, be it that of a run or of a sweep."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from distsgd.errors import ConfigError, RunDirectoryError


@contextlib.contextmanager
def refusing(path: Path, file: str, what: str) -> Iterator[None]:
    """Raise RunDirectoryError in place of what reading `file` in a directory raises; `what` is a run or a sweep."""
    try:
        yield
    except FileNotFoundError:
        raise RunDirectoryError(
            f"there is no {what} to resume in {str(path)!r}: it has no {file}; leave --resume out to start one"
        ) from None
    except OSError as error:
        raise RunDirectoryError(f"{str(path / file)!r} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ConfigError) as error:
        raise RunDirectoryError(
            f"{str(path / file)!r} is damaged or of another version of distsgd: {_problem(error)}; restore it from a "
            "backup"
        ) from None


def not_writable(path: Path, error: OSError) -> RunDirectoryError:
    """Return the error for a directory that cannot be written."""
    return RunDirectoryError(
        f"the run directory {str(path)!r} cannot be written: {error.strerror}; give another one (--run-dir, run.dir)"
    )


def _problem(error: Exception) -> str:
    """Return an error in a line; of pydantic's, which have many, the first problem and where it is."""
    problems = getattr(error, "errors", None)
    if problems is None:
        return str(error)
    first = problems()[0]
    return ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))
