"""The connections between the nodes of a run that own slices: every one to every other.

All members do the same in a step: they send each other their gradients (`scatter`), update their own slices, and send
those (`gather`). Member 0, on the parameter server's node, says when a step begins. mesh_channel.py has the messages.
Vectors go from the memory that they were computed in to the memory that they are needed in. Sending and receiving go on
at the same time, with all members, so nobody waits for one who waits for another.
"""

from __future__ import annotations

import math
import select
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress

import numpy as np

from distsgd.comm.deadlines import FIRST_S, FLOOR_S, Deadlines, Timeout, transfer_s
from distsgd.comm.exchange import LOOK_S
from distsgd.comm.mesh_channel import CULPRIT, ORDERS, Channel
from distsgd.comm.messages import ERROR_BYTES
from distsgd.comm.spinning import SpinPolicy
from distsgd.comm.tcp_messages import sums
from distsgd.comm.tcp_stream import Bytes, Stream
from distsgd.comm.unix_socket import ConnectionClosedError, WaitTimeoutError
from distsgd.core.reduction import PartialSum
from distsgd.core.slices import SlicesBrokenError, View

LEADER_S = 3 * FIRST_S
"""Seconds that the others wait for member 0 at least. It notices earlier if one of them is missing, and says so."""


class Mesh:
    """One member's connections to all others."""

    def __init__(
        self,
        view: View,
        member: int,
        streams: Mapping[int, tuple[str, Stream]],
        parameters: int,
        *,
        timeout_s: Timeout,
        spin: bool,
    ) -> None:
        """`streams` has the name of each other member and the connection to it; `parameters` is P."""
        self.view, self.member, dtype = view, member, view.summation.dtype
        self._channels = [Channel(other, *streams[other], members=len(view.shards)) for other in sorted(streams)]
        self._deadlines = Deadlines.for_server(timeout_s) if member == 0 else Deadlines.for_member(timeout_s)
        self._deadlines.expect((channel.member, len(view.shards[channel.member])) for channel in self._channels)
        self._transfer_s = transfer_s(timeout_s, dtype.itemsize * parameters)
        self._extra_s = self._transfer_s - FLOOR_S if timeout_s == "auto" else 0.0
        self._leader_s = LEADER_S + self._extra_s if timeout_s == "auto" else 3 * timeout_s
        self._spin_policy = SpinPolicy() if spin else None
        own, counts = view.slices[member], [len(view.roots[channel.member]) for channel in self._channels]
        # Only the parts of the rows that are received into use memory.
        self._rows = [[np.empty(parameters, dtype) for _ in range(count)] for count in counts]
        self._sums = [bytearray(sums(count).size) for count in counts]
        self._targets: list[list[Bytes]] = [
            [head, *(row[own] for row in rows)] for head, rows in zip(self._sums, self._rows, strict=True)
        ]
        self._flags = [bytearray(1) for _ in self._channels]

    def scatter(self, step: int, partials: Sequence[PartialSum]) -> list[PartialSum] | None:
        """Send the gradients of this node, one for each of its subtrees; return those of all others.

        Of their gradients only the part within the own slice is there, and only until the next call. Return None if
        member 0 says that the step is void. Raise SlicesBrokenError if a member is lost.
        """
        head = sums(len(partials)).pack(*(value for partial in partials for value in partial[2:]))
        for channel, targets in zip(self._channels, self._targets, strict=True):
            part = self.view.slices[channel.member]
            channel.send(b"D", step, head, *(partial.gradient[part] for partial in partials))
            channel.expect((b"D",), step, targets)
        self._run("its gradients", step, learn=True)
        found: list[PartialSum] = []
        for channel, packed, rows in zip(self._channels, self._sums, self._rows, strict=True):
            if channel.kind == b"V":
                return None
            roots = self.view.roots[channel.member]
            values = sums(len(roots)).unpack(packed)
            found += map(PartialSum, roots, rows, values[::3], values[1::3], values[2::3])
        return found

    def squares(self, step: int, own: Sequence[float], counts: Sequence[int]) -> list[float]:
        """Send the squared norms of the own blocks and return those of all; each member sends `counts` numbers."""
        found = [np.empty(counts[channel.member]) for channel in self._channels]
        for channel, target in zip(self._channels, found, strict=True):
            channel.send(b"W", step, np.array(own, np.float64))
            channel.expect((b"W",), step, [target])
        self._run("the norm of its gradient", step)
        return [*own, *(float(square) for squares in found for square in squares)]

    def gather(
        self, step: int, vector: np.ndarray, *, finite: bool, hold: bool, meanwhile: Callable[[], None] | None = None
    ) -> tuple[bool, bool]:
        """Send the own slice of `vector` (P,), and receive all others into it.

        `finite` says whether the own slice is; `hold`, of member 0, whether it gives an order before the next step.
        `meanwhile` is called if something has yet to arrive. Return whether all slices are finite, and member 0's
        `hold`.
        """
        flags = bytes([finite | hold << 1])
        part = vector[self.view.slices[self.member]]
        for channel, target in zip(self._channels, self._flags, strict=True):
            channel.send(b"N", step, flags, part)
            channel.expect((b"N",), step, [target, vector[self.view.slices[channel.member]]])
        self._run("its slice of the parameters", step, meanwhile=meanwhile)
        everywhere = finite and all(target[0] & 1 for target in self._flags)
        return everywhere, hold if self.member == 0 else bool(self._flags[0][0] & 2)

    def begin(self, step: int, parameters: np.ndarray, state: Sequence[np.ndarray]) -> None:
        """As member 0, send all others the parameters (P,), and their slices of the state vectors (P,)."""
        for channel in self._channels:
            part = self.view.slices[channel.member]
            channel.send(b"B", step, parameters, *(vector[part] for vector in state))
        self._run("that it has received the parameters", step)

    def await_begin(self, step: int, parameters: np.ndarray, state: Sequence[np.ndarray]) -> None:
        """As another member, receive what `begin` sends."""
        own = self.view.slices[self.member]
        self._channels[0].expect((b"B",), step, [parameters, *(vector[own] for vector in state)])
        self._run("the parameters", step)

    def order(self, kind: bytes, step: int) -> None:
        """As member 0, say what to do before the next step: one of ORDERS."""
        for channel in self._channels:
            channel.send(kind, step)
        self._run("that it has received an order", step)

    def await_order(self, step: int) -> bytes:
        """As another member, wait for an order without a timeout; the connection ends if member 0 does."""
        channel = self._channels[0]
        channel.expect(ORDERS, step)
        while not channel.advance():
            waiting = select.poll()
            waiting.register(channel.stream.fileno(), _events(channel))
            waiting.poll()
        return channel.kind

    def void(self, step: int) -> None:
        """As member 0, call off a step that the others have begun; all they can do afterwards is send their state."""
        for channel, targets in zip(self._channels, self._targets, strict=True):
            channel.send(b"V", step)
            channel.expect((b"D",), step, targets)
        self._run("its gradients", step)

    def fetch(self, step: int, state: Sequence[np.ndarray]) -> None:
        """As member 0, have all others send their slices of the state vectors (P,), and receive them into these."""
        for channel in self._channels:
            part = self.view.slices[channel.member]
            channel.send(b"S", step)
            channel.expect((b"T",), step, [vector[part] for vector in state])
        self._run("its slice of the state", step)

    def send_state(self, step: int, state: Sequence[np.ndarray]) -> None:
        """As another member, answer `fetch`."""
        own = self.view.slices[self.member]
        self._channels[0].send(b"T", step, *(vector[own] for vector in state))
        self._run("that it has received the state", step)

    def report(self, step: int, problem: str, *, member: int | None = None, failed: bool = False) -> None:
        """As another member, tell member 0 why this one leaves, and which `member` is the problem if not this one."""
        channel, text = self._channels[0], problem.encode(errors="replace")[:ERROR_BYTES]
        culprit = CULPRIT.pack(self.member if member is None else member)
        channel.send(b"F" if failed else b"L", step, culprit, text)
        with suppress(ConnectionClosedError, WaitTimeoutError):
            channel.stream.send(*channel.outgoing, timeout_s=self._transfer_s)

    def close(self) -> None:
        """Close all connections."""
        for channel in self._channels:
            channel.stream.close()

    def shut_down(self) -> None:
        """Make all members read the end of their streams. Thread-safe, even while another thread uses the mesh."""
        for channel in self._channels:
            channel.stream.shut_down()

    def _run(self, what: str, step: int, *, learn: bool = False, meanwhile: Callable[[], None] | None = None) -> None:
        """Send and receive until all messages have come, or member 0's that the step is void."""
        left = {channel.stream.fileno(): channel for channel in self._channels if not channel.advance()}
        if learn and self._deadlines.unsettled:
            for channel in self._channels:
                if channel.stream.fileno() not in left:
                    self._learn(channel, 0.0)
        if left and meanwhile is not None:
            meanwhile()
        waiting, waited_s = select.poll(), 0.0
        for descriptor, channel in left.items():
            waiting.register(descriptor, _events(channel))
        if self.member and (server := self._channels[0].stream.fileno()) not in left:
            waiting.register(server, select.POLLRDHUP)
        while left:
            began = time.monotonic()
            wait_s = min(LOOK_S, self._left_s(left.values(), waited_s, what, step))
            ready = self._wait(waiting, 1000 * wait_s)
            # If the whole machine was paused, it counts as LOOK_S at most.
            waited_s += min(time.monotonic() - began, wait_s)
            for descriptor, _ in ready:
                if descriptor not in left:
                    raise self._channels[0].ended()
                channel = left[descriptor]
                if not channel.advance():
                    waiting.modify(descriptor, _events(channel))
                    continue
                del left[descriptor]
                if channel.kind == b"V":
                    return
                if channel.member == 0:  # who waits for another member, perhaps in vain, is to see the view end
                    waiting.modify(descriptor, select.POLLRDHUP)
                else:
                    waiting.unregister(descriptor)
                if learn:
                    self._learn(channel, waited_s)

    def _wait(self, waiting: select.poll, timeout_ms: float) -> list[tuple[int, int]]:
        if self._spin_policy is None:
            return waiting.poll(timeout_ms)
        return self._spin_policy.wait(waiting, timeout_ms)

    def _learn(self, channel: Channel, took_s: float) -> None:
        self._deadlines.learn(channel.member, len(self.view.shards[channel.member]), took_s)

    def _left_s(self, channels: Iterable[Channel], waited_s: float, what: str, step: int) -> float:
        """Return the seconds until the first of `channels` is overdue; raise SlicesBrokenError if one is."""
        least_s = math.inf
        for channel in channels:
            limit_s = self._limit_s(channel.member)
            if waited_s >= limit_s:
                problem = f"{channel.name} has not sent {what} of step {step + 1} for {round(limit_s, 1):g} s"
                raise SlicesBrokenError(channel.member, f"{problem}, by {channel.path}", overdue=True)
            least_s = min(least_s, limit_s - waited_s)
        return least_s

    def _limit_s(self, member: int) -> float:
        """Return the seconds that a member may take; all have to wait for the slowest one's gradients."""
        if member == 0:
            return self._leader_s
        shards = self.view.shards
        slowest_s = max(
            self._deadlines.timeout_s(channel.member, len(shards[channel.member]))
            for channel in self._channels
            if channel.member
        )
        return slowest_s + self._extra_s


def _events(channel: Channel) -> int:
    return select.POLLIN | select.POLLOUT if channel.outgoing else select.POLLIN
