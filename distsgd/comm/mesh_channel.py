"""One connection of a mesh, with the messages that are on their way in both directions.

Every message is a HEAD and as many bytes as it says. Both sides know what the other one sends next, and how long it is,
so a vector goes straight to where it is needed.

    D  gradients: loss, examples and weight of each subtree, then each subtree's gradient within the receiver's slice
    W  squared norms of the sender's blocks, for clipping
    N  a byte of flags, then the sender's new slice
    F  the text of an error in a computation, which ends the run
    L  the sender leaves, and why
       (both begin with the member that is the problem: the sender, or one that it cannot reach)
and from member 0 alone, which also answers for all others:
    B  begin at a step: the parameters, then the receiver's slice of the update rule's state
    G  go on with the next step          S  send your slice of the state          Q  leave
    V  the step is void: instead of D, if member 0 cannot compute its shards
    T  a slice of the state, in answer to S
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from contextlib import suppress

from distsgd.comm.messages import ERROR_BYTES
from distsgd.comm.tcp_stream import Bytes, Stream, views
from distsgd.comm.unix_socket import ConnectionClosedError
from distsgd.core.slices import SlicesBrokenError

HEAD = struct.Struct("<cqq")  # kind, step, bytes that follow

CULPRIT = struct.Struct("<q")

ORDERS = (b"G", b"S", b"Q")
"""What member 0 says to one that waits for it."""


class Channel:
    """The connection to one other member."""

    def __init__(self, member: int, name: str, stream: Stream, *, members: int) -> None:
        """`members` is how many the view has."""
        self.member, self.name, self.path, self._members = member, name, stream.path, members
        self.stream = stream
        self.kind = b""
        """The kind of the message that is arriving, or has arrived; empty before its head is there."""
        self.outgoing: list[memoryview] = []
        self._head = bytearray(HEAD.size)
        self._expected: tuple[bytes, ...] = ()
        self._step = 0
        self._targets: Sequence[Bytes] = ()
        self._filled = 0
        self._text = bytearray()

    def send(self, kind: bytes, step: int, *parts: Bytes) -> None:
        """Queue a message; `advance` sends it. The parts must not be changed before that."""
        left = views(parts)
        self.outgoing += [memoryview(HEAD.pack(kind, step, sum(map(len, left)))), *left]

    def expect(self, kinds: tuple[bytes, ...], step: int, targets: Sequence[Bytes] = ()) -> None:
        """Expect a message of one of `kinds` next; `advance` fills `targets` with what follows its head."""
        self.kind, self._expected, self._step = b"", kinds, step
        self._targets, self._filled = targets, 0

    def advance(self) -> bool:
        """Send and receive what is possible at once; return whether all is sent, and what is expected has arrived.

        Raise SlicesBrokenError if the connection is gone, or the other side sends something else.
        """
        try:
            sent = self.stream.push(self.outgoing)
        except ConnectionClosedError as error:
            with suppress(ConnectionClosedError):  # what it said before, such as why it leaves, can still be read
                self._receive()
            raise self._gone(error) from None
        try:
            return self._receive() and sent
        except ConnectionClosedError as error:
            raise self._gone(error) from None

    def ended(self) -> SlicesBrokenError:
        """Return the error if member 0 has closed the connection, which it does when a view is over."""
        return SlicesBrokenError(self.member, f"{self.name} has ended the view: {self.path} is closed")

    def _gone(self, error: ConnectionClosedError) -> SlicesBrokenError:
        return SlicesBrokenError(self.member, f"{self.name} is gone: {error}")

    def _reported(self) -> SlicesBrokenError:
        """Return the error that the other side has reported: its own, or that another member is lost to it."""
        (culprit,), text = CULPRIT.unpack_from(self._text), self._text[CULPRIT.size :].decode(errors="replace")
        if culprit == self.member or not 0 <= culprit < self._members:
            return SlicesBrokenError(self.member, text, failed=self.kind == b"F")
        return SlicesBrokenError(culprit, f"{self.name} reports: {text}")

    def _receive(self) -> bool:
        try:
            if self._expected and not self.kind:
                self.stream.receive_into(self._head)
                self._check_head()
            while self._filled < len(self._targets):
                self.stream.receive_into(self._targets[self._filled])
                self._filled += 1
        except BlockingIOError:
            return False
        if self.kind in (b"F", b"L"):
            raise self._reported()
        self._expected = ()
        return True

    def _check_head(self) -> None:
        kind, step, size = HEAD.unpack(self._head)
        if kind in (b"F", b"L") and CULPRIT.size <= size <= CULPRIT.size + ERROR_BYTES:
            self._text = bytearray(size)
            self._targets = (self._text,)
        elif kind == b"V" and b"D" in self._expected and self.member == 0 and size == 0:
            self._targets = ()
        else:
            due = 0 if kind in ORDERS else sum(map(len, views(self._targets)))
            if kind not in self._expected or (step, size) != (self._step, due):
                raise SlicesBrokenError(
                    self.member,
                    f"{self.name} sends {size} bytes of kind {kind!r} for step {step + 1}, and not {due} of "
                    f"{b' or '.join(self._expected).decode()} for step {self._step + 1}, by {self.path}",
                )
            if kind in ORDERS:
                self._targets = ()
        self.kind = kind
