"""The protocol between a server and the workers on its node, over a Unix socket.

A worker sends HELLO and receives its PeerSettings, with the descriptors of the parameter buffers and of its slots. From
then on the server sends a TASK, and the worker answers with a HEAD: D (done) with a sum for each subtree, or F (failed)
with the text of an error. A worker may also send F without a task, if something fails between two tasks.
"""

from __future__ import annotations

import functools
import json
import struct
from dataclasses import dataclass

from distsgd.core.reduction import SUMMATIONS, Summation

HELLO = struct.Struct("<8sqq")  # MAGIC, the worker's number, P
MAGIC = b"distsgd4"
TASK = struct.Struct("<qqqqq")  # step, first shard, one past the last, parameter buffer, whether the update is here
HEAD = struct.Struct("<cqqq")  # D or F, step, first shard, one past the last

HANDSHAKE_S = 30.0
"""Seconds that each side waits for the other's first message."""

ERROR_BYTES = 4000
"""Maximum length of an error's text, in bytes; the rest is cut off."""


@functools.cache
def reply_layout(subtrees: int) -> struct.Struct:
    """Return the layout of a D message: head, then loss, number of examples and their weight for each subtree."""
    return struct.Struct(HEAD.format + subtrees * "dqd")


@dataclass(frozen=True)
class PeerSettings:
    """The settings that a server sends to a worker that connects."""

    parameters: int
    """P."""

    num_shards: int
    spin: bool
    """Whether there are enough cores for waits to poll before they block."""

    arithmetic: str = "fast"
    """How gradients are added, a key of `reduction.SUMMATIONS`; it determines the type of their sums."""

    core: int | None = None
    """The core that the worker pins itself to, as an index into those that it may use; None for no pinning."""

    def encode(self) -> bytes:
        """Return the settings as a message."""
        return json.dumps(vars(self)).encode()

    @classmethod
    def of(cls, parameters: int, summation: Summation, *, spin: bool) -> PeerSettings:
        """Return the settings for gradients that are added in one way."""
        return cls(parameters, summation.num_shards, spin, summation.arithmetic)

    @property
    def summation(self) -> Summation:
        """How gradients are added."""
        return SUMMATIONS[self.arithmetic](self.num_shards)

    @classmethod
    def decode(cls, message: bytes) -> PeerSettings:
        """Parse the settings in a message; raise ValueError if it is not a settings message."""
        try:
            fields = json.loads(message)
            settings = cls(**fields)
        except (TypeError, ValueError, RecursionError):
            raise ValueError("the process that listens here did not answer with settings for a worker") from None
        kinds = (type(settings.parameters), type(settings.num_shards), type(settings.spin))
        known = settings.arithmetic in tuple(SUMMATIONS) and type(settings.core) in (int, type(None))
        if kinds != (int, int, bool) or settings.num_shards < 1 or not known:
            raise ValueError(
                f"the process that listens here answered with invalid settings for a worker: {fields}"[:300]
            )
        return settings


def encode_error(step: int, shards: range, error: BaseException) -> bytes:
    """Return an F message."""
    text = f"{type(error).__name__}: {error}".encode(errors="replace")[:ERROR_BYTES]
    return HEAD.pack(b"F", step, shards.start, shards.stop) + text
