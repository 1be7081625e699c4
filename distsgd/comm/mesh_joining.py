"""Making a mesh: each member connects to those before it, and waits for those after it."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Sequence

from distsgd.comm.deadlines import Timeout
from distsgd.comm.mesh import Mesh
from distsgd.comm.tcp_acceptor import TcpAddress
from distsgd.comm.tcp_endpoint import CONNECT_ERRORS, CONNECT_S, TcpEndpoint
from distsgd.comm.tcp_greeting import Introduction, Secret
from distsgd.comm.tcp_stream import Stream
from distsgd.core.slices import View

JOIN_S = 2 * CONNECT_S
"""Seconds that a member waits for the others to connect to it."""


class MeshError(Exception):
    """A mesh cannot be made; the message says between whom."""


class AcceptedMembers:
    """The connections of members that have greeted, until a mesh is made of them. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._streams: dict[tuple[int, int], Stream] = {}  # by view and member

    def add(self, stream: Stream, introduction: Introduction) -> None:
        """Keep a member's connection; a second one of the same member is closed."""
        key = (introduction.view, introduction.member)
        with self._changed:
            if key not in self._streams:
                self._streams[key] = stream
                self._changed.notify_all()
                return
        stream.close()

    def take(self, view: int, members: Sequence[int], timeout_s: float) -> dict[int, Stream]:
        """Return the connections of those `members` that have come within `timeout_s`; close those of other views."""
        wanted = {(view, member) for member in members}
        with self._changed:
            self._changed.wait_for(lambda: wanted <= self._streams.keys(), timeout_s)
            found = {key[1]: self._streams.pop(key) for key in wanted & self._streams.keys()}
            outdated = [self._streams.pop(key) for key in list(self._streams) if key[0] <= view]
        for stream in outdated:
            stream.close()
        return found


def join_mesh(
    view: View,
    member: int,
    *,
    names: Sequence[str],
    addresses: Sequence[TcpAddress],
    secret: Secret,
    accepted: AcceptedMembers,
    parameters: int,
    timeout_s: Timeout,
    spin: bool,
) -> Mesh:
    """Return the connections of one member to all others; they are called at the same time.

    `names` and `addresses` are those of all members. Raise MeshError if one of them cannot be reached.
    """
    me = Introduction(names[member], socket.gethostname(), os.getpid(), 1, view.number, member)
    streams: dict[int, Stream] = {}
    deadline = time.monotonic() + JOIN_S
    try:
        for other in range(member):
            try:
                streams[other] = TcpEndpoint.connect(addresses[other], secret, me, parameters)
            except CONNECT_ERRORS as error:
                where = f"{names[other]} at {addresses[other]}"
                raise MeshError(f"{names[member]} cannot reach {where}: {error or type(error).__name__}") from None
        later = range(member + 1, len(names))
        streams |= accepted.take(view.number, later, max(0.0, deadline - time.monotonic()))
        if missing := [names[other] for other in later if other not in streams]:
            raise MeshError(f"{names[member]} was not reached by {' and '.join(missing)} at {addresses[member]}")
    except BaseException:
        for stream in streams.values():
            stream.close()
        raise
    named = {other: (names[other], stream) for other, stream in streams.items()}
    return Mesh(view, member, named, parameters, timeout_s=timeout_s, spin=spin)
