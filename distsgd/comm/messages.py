"""What a server and the workers of its node say to each other on a Unix socket.

A worker greets with HELLO and is sent its PeerSettings, with the descriptors of the parameter buffers and of its
slots. From then on the server sends a TASK, and the worker answers with a HEAD: D with a sum for each subtree, or F
with the text of an error. An F may come unasked, if something fails between two tasks.
"""

from __future__ import annotations

import functools
import json
import struct
from dataclasses import dataclass

HELLO = struct.Struct("<8sqq")  # MAGIC, the worker's number, P
MAGIC = b"distsgd2"
TASK = struct.Struct("<qqqq")  # step, first shard, one past the last, parameter buffer
HEAD = struct.Struct("<cqqq")  # D or F, step, first shard, one past the last

HANDSHAKE_S = 30.0
"""Seconds that each side waits for the other's greeting."""

ERROR_BYTES = 4000
"""Bytes of an error's text that are sent."""


@functools.cache
def reply_layout(subtrees: int) -> struct.Struct:
    """Return the layout of a D: the head, and for each subtree the loss, the number of examples and their weight."""
    return struct.Struct(HEAD.format + subtrees * "dqd")


@dataclass(frozen=True)
class PeerSettings:
    """What a server tells a worker that connects."""

    parameters: int
    """P."""

    num_shards: int
    spin: bool
    """Whether there are cores enough for waits to poll before they block."""

    core: int | None = None
    """Which one of its cores the worker keeps to, counted from 0; none if it need not."""

    def encode(self) -> bytes:
        """Return the settings as a message."""
        return json.dumps(vars(self)).encode()

    @classmethod
    def decode(cls, message: bytes) -> PeerSettings:
        """Return the settings that a message holds; ValueError if it is another message."""
        try:
            fields = json.loads(message)
            settings = cls(**fields)
        except (TypeError, ValueError, RecursionError):
            raise ValueError("what listens here answers with something else than settings for a worker") from None
        kinds = (type(settings.parameters), type(settings.num_shards), type(settings.spin))
        if kinds != (int, int, bool) or type(settings.core) not in (int, type(None)) or settings.num_shards < 1:
            raise ValueError(f"what listens here answers with settings that no worker can have: {fields}"[:300])
        return settings


def encode_error(step: int, shards: range, error: BaseException) -> bytes:
    """Return an F."""
    text = f"{type(error).__name__}: {error}".encode(errors="replace")[:ERROR_BYTES]
    return HEAD.pack(b"F", step, shards.start, shards.stop) + text
