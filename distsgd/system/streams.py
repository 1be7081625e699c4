"""Standard streams for programs that were started without them."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def standard_streams() -> Iterator[None]:
    """Permanently open /dev/null for each closed standard stream, and provide `sys.stderr` within the context.

    Another file would otherwise get the number of the closed one, and processes that are started would inherit it as
    their standard stream. Ray refuses to start without `sys.stderr`, which is None if it was closed from the beginning.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one, as those below it are open
    before = sys.stderr
    if before is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)
    try:
        yield
    finally:
        sys.stderr = before
