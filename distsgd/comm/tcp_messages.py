"""The protocol between a server and a process on another node, after their greeting (tcp_greeting.py).

The server sends a TASK and the parameters (P,) float32. The other side answers with an ANSWER head and its payload:
for D (done) a sum for each subtree, and then the gradients (P,) of the subtrees, one after the other, float32
or, where sums are exact, float64; for F
(failed) and L (lost: an aggregator without workers) the text of an error. Numbers are little-endian.

A TASK whose first shard is -1 has the number of a view instead of the last shard, and no parameters: the other side
serves that view (mesh_channel.py) until it is over, and then goes on here.
"""

from __future__ import annotations

import functools
import struct

from distsgd.comm.messages import ERROR_BYTES

TASK = struct.Struct("<qqq")  # step, first shard, one past the last
ANSWER = struct.Struct("<cqqqq")  # D, F or L; step, first shard, one past the last; bytes of the payload


@functools.cache
def sums(subtrees: int) -> struct.Struct:
    """Return the layout of a D payload: loss, number of examples and their weight for each subtree."""
    return struct.Struct("<" + subtrees * "dqd")


def encode_error(kind: bytes, step: int, shards: range, error: BaseException) -> bytes:
    """Return an F or an L message."""
    name = "" if kind == b"L" else f"{type(error).__name__}: "
    text = f"{name}{error}".encode(errors="replace")[:ERROR_BYTES]
    return ANSWER.pack(kind, step, shards.start, shards.stop, len(text)) + text
