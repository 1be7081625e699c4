"""A worker's side of shared memory: connects to the server of its node, and computes what that asks for."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

import numpy as np

from distsgd.comm import messages
from distsgd.comm.memory import Segment
from distsgd.comm.messages import HELLO, MAGIC, TASK, PeerSettings, encode_error, reply_layout
from distsgd.comm.spinning import SpinPolicy
from distsgd.comm.unix_socket import Connection, ConnectionClosedError, WaitTimeoutError
from distsgd.core import reduction
from distsgd.core.reduction import PartialSum
from distsgd.system import faults

CONNECT_ERRORS = (OSError, ConnectionClosedError, WaitTimeoutError, ValueError)
"""What `Endpoint.connect` raises where shared memory cannot be used."""


class GradientComputer(Protocol):
    """What an endpoint needs of a worker; see engine.worker.Worker."""

    def compute(self, step: int, flat: np.ndarray, shards: range, out: Sequence[np.ndarray]) -> Sequence[PartialSum]:
        """Return the partial sums of a run of shards, with their gradients in `out`."""
        ...

    def prefetch(self, step: int, shards: range) -> None:
        """Gather the rows of shards that are likely to be computed next."""
        ...


class Endpoint:
    """A worker's connection to its server, and the server's memory."""

    def __init__(
        self,
        connection: Connection,
        parameter_buffers: Segment,
        slots: Segment,
        *,
        number: int,
        spin: bool,
        core: int | None,
    ) -> None:
        self._connection, self._number, self._core = connection, number, core
        self._parameter_buffers, self._slots = list(parameter_buffers.rows), list(slots.rows)
        self._spin_policy = SpinPolicy() if spin else None

    @classmethod
    def connect(cls, address: str, number: int, parameters: int) -> Endpoint:
        """Connect worker `number` to the server that listens at `address` on this node.

        Raises OSError if none can be reached, and ConnectionClosedError, WaitTimeoutError or ValueError if what
        listens there is not a server of a net with so many parameters.
        """
        connection = Connection.to(address)
        try:
            connection.send(HELLO.pack(MAGIC, number, parameters))
            connection.wait(messages.HANDSHAKE_S)
            message, descriptors = connection.receive_descriptors(2)
            try:
                settings = PeerSettings.decode(message)
                parameter_buffers = Segment.attach(descriptors[0], 2, parameters, writable=False)
                count = reduction.max_subtrees(settings.num_shards)
                slots = Segment.attach(descriptors[1], count, parameters, writable=True)
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
        except BaseException:
            connection.close()
            raise
        return cls(connection, parameter_buffers, slots, number=number, spin=settings.spin, core=settings.core)

    def serve(self, worker: GradientComputer) -> None:
        """Compute what the server asks for until it hangs up, in this thread, which may be bound to a core for good.

        An error in the worker is sent to the server, which fails with it; whatever else goes wrong, it reads the end of
        the stream.
        """
        if self._core is not None:
            _keep_to(self._core)
        try:
            with suppress(ConnectionClosedError, struct.error):  # what sends such tasks is no server of this version
                while True:
                    self._connection.wait_unbounded(self._spin_policy)
                    step, lo, hi, buffer = TASK.unpack(self._connection.receive())
                    self._compute(worker, step, range(lo, hi), buffer)
        finally:
            self._connection.close()

    def _compute(self, worker: GradientComputer, step: int, shards: range, buffer: int) -> None:
        """Answer one task, and use the time until the next one."""
        faults.reached("worker", self._number, step + 1, "asked")
        try:
            partials = worker.compute(step, self._parameter_buffers[buffer], shards, self._slots)
            sums = [value for partial in partials for value in partial[2:]]  # loss, examples, weight
            answer = reply_layout(len(partials)).pack(b"D", step, shards.start, shards.stop, *sums)
            faults.reached("worker", self._number, step + 1, "computed")
            self._connection.send(answer)
            faults.reached("worker", self._number, step + 1, "answered")
            worker.prefetch(step + 1, shards)
        except ConnectionClosedError:
            raise
        except Exception as error:  # whatever it is, the run has to learn of it
            self._connection.send(encode_error(step, shards, error))

    def disconnect(self) -> None:
        """Make `serve` return after the computation at hand; any thread may call it."""
        self._connection.shut_down()


def _keep_to(core: int) -> None:
    """Bind the calling thread to one of the cores that it may use, if the system allows that."""
    cores = sorted(os.sched_getaffinity(0))
    with suppress(OSError):  # it is only for speed
        os.sched_setaffinity(0, {cores[core % len(cores)]})
