"""The worker's side of the shared-memory transport: connects to the server on its node and executes its tasks."""

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
from distsgd.comm.spinning import SPIN_S, WORKER_SPIN_S, SpinPolicy
from distsgd.comm.unix_socket import Connection, ConnectionClosedError, WaitTimeoutError
from distsgd.core.reduction import PartialSum
from distsgd.system import faults

CONNECT_ERRORS = (OSError, ConnectionClosedError, WaitTimeoutError, ValueError)
"""The errors that `Endpoint.connect` raises if shared memory cannot be used."""


class GradientComputer(Protocol):
    """The part of a worker that an endpoint uses; see engine.worker.Worker."""

    def compute(self, step: int, flat: np.ndarray, shards: range, out: Sequence[np.ndarray]) -> Sequence[PartialSum]:
        """Return the partial sums of a contiguous range of shards, with their gradients in `out`."""
        ...

    def prefetch(self, step: int, shards: range, *, update_here: bool) -> None:
        """Gather the rows of the shards that are likely to be requested next.

        `update_here` says whether the parameters are meanwhile updated on this node, and nowhere else.
        """
        ...


class Endpoint:
    """A worker's connection to its server, and the memory that it shares with it."""

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
        self._spin_policy = SpinPolicy(SPIN_S, WORKER_SPIN_S) if spin else None

    @classmethod
    def connect(cls, address: str, number: int, parameters: int) -> Endpoint:
        """Connect worker `number` to the server that listens at `address` on this node.

        Raise OSError if no server can be reached, and ConnectionClosedError, WaitTimeoutError or ValueError if the
        process that listens there is not a server for a net with `parameters` parameters.
        """
        connection = Connection.to(address)
        try:
            connection.send(HELLO.pack(MAGIC, number, parameters))
            connection.wait(messages.HANDSHAKE_S)
            message, descriptors = connection.receive_descriptors(2)
            try:
                settings = PeerSettings.decode(message)
                parameter_buffers = Segment.attach(descriptors[0], 2, parameters, writable=False)
                summation = settings.summation
                slots = Segment.attach(descriptors[1], summation.max_nodes, parameters, summation.dtype, writable=True)
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
        except BaseException:
            connection.close()
            raise
        return cls(connection, parameter_buffers, slots, number=number, spin=settings.spin, core=settings.core)

    def serve(self, worker: GradientComputer) -> None:
        """Execute the server's tasks until it closes the connection.

        The calling thread may be pinned to a core, and stays pinned afterwards. An error in the worker is sent to the
        server, which fails with it; on any other problem the server reads the end of the stream.
        """
        if self._core is not None:
            _pin_to(self._core)
        try:
            with suppress(ConnectionClosedError, struct.error):  # a malformed task is not from a server of this version
                while True:
                    self._connection.wait_unbounded(self._spin_policy)
                    step, lo, hi, buffer, here = TASK.unpack(self._connection.receive())
                    self._compute(worker, step, range(lo, hi), buffer, update_here=bool(here))
        finally:
            self._connection.close()

    def _compute(self, worker: GradientComputer, step: int, shards: range, buffer: int, *, update_here: bool) -> None:
        """Answer one task, then prefetch for the next one."""
        faults.reached("worker", self._number, step + 1, "asked")
        try:
            partials = worker.compute(step, self._parameter_buffers[buffer], shards, self._slots)
            sums = [value for partial in partials for value in partial[2:]]  # loss, examples, weight
            answer = reply_layout(len(partials)).pack(b"D", step, shards.start, shards.stop, *sums)
            faults.reached("worker", self._number, step + 1, "computed")
            self._connection.send(answer)
            faults.reached("worker", self._number, step + 1, "answered")
            worker.prefetch(step + 1, shards, update_here=update_here)
        except ConnectionClosedError:
            raise
        except Exception as error:  # whatever it is, the server has to report it
            self._connection.send(encode_error(step, shards, error))

    def disconnect(self) -> None:
        """Make `serve` return after the current task. Thread-safe."""
        self._connection.shut_down()


def _pin_to(core: int) -> None:
    """Pin the calling thread to one of the cores that it may use, if the system allows it."""
    cores = sorted(os.sched_getaffinity(0))
    with suppress(OSError):  # pinning only affects speed
        os.sched_setaffinity(0, {cores[core % len(cores)]})
