"""Standard streams that tolerate write errors: a closed pipe or terminal must not end a run."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO


class LenientStream:
    """A text stream that is redirected to /dev/null, including its file descriptor, once a write fails."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text; ignore errors. A character that the stream's encoding lacks is written as an escape."""
        try:
            return self._stream.write(text)
        except UnicodeEncodeError:
            encoding = self._stream.encoding
            self.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except (OSError, ValueError):  # ValueError is that of a closed file
            self._discard()
        return len(text)

    def flush(self) -> None:
        """Write buffered text; ignore errors."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._discard()

    def _discard(self) -> None:
        """Redirect the descriptor to /dev/null, for buffered text and for libraries that write to it directly."""
        with contextlib.suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def lenient_streams() -> Iterator[None]:
    """Make standard output and standard error lenient, and open them if the process was started without."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # otherwise the next file opened would become a standard stream
            os.open(os.devnull, os.O_RDWR)
    before = sys.stdout, sys.stderr
    with contextlib.ExitStack() as stack:
        stdout, stderr = (stream or stack.enter_context(open(os.devnull, "w")) for stream in before)
        lenient = LenientStream(stdout), LenientStream(stderr)
        sys.stdout, sys.stderr = lenient
        try:
            yield
        finally:
            for stream in lenient:
                stream.flush()
            sys.stdout, sys.stderr = before
