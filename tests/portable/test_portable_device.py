"""The whole way of a step on a device, with a fake CuPy whose arrays do not mix with NumPy's: one hash with the CPU."""

from __future__ import annotations

import numpy as np
import pytest
from plain_training import worker_of

from distsgd.core.reduction import PartialSum
from distsgd.engine import validation
from distsgd.engine.validation import Extras
from portable.configurations import STEPS, spec_of
from portable.ways import digest, serial, server_of


class DeviceWorkers:
    """A server's link to two workers with a device each, who share a mini-batch."""

    def __init__(self, spec) -> None:
        self.buffers = np.empty((2, spec.net.size), np.float32)
        self.workers = [worker_of(spec, "cuda") for _ in range(2)]

    def exchange(self, step: int, buffer: int, shards: range) -> list[PartialSum]:
        first, second = self.workers
        cut = 1 + step % (len(shards) - 1)
        second.prefetch(step, shards[cut:], update_here=step % 2 == 0)
        found = second.compute(step, self.buffers[buffer], shards[cut:])
        return found + first.compute(step, self.buffers[buffer], shards[:cut])


@pytest.mark.parametrize("number", range(12))
@pytest.mark.usefixtures("stand_in")
def test_devices_give_the_bits_of_numpy(number):
    spec = spec_of(number)
    link = DeviceWorkers(spec)
    server = server_of(spec, link)
    assert server.run(STEPS) == STEPS
    losses = [record["train/loss"] for record in server.take_records()]
    assert digest(spec, server.snapshot(), losses) == serial(spec)
    blocks = range(validation.block_count(len(spec.data.val)))
    measured = [w.evaluate(server.parameters, blocks, Extras(True, True)) for w in (link.workers[0], worker_of(spec))]
    assert repr(measured[0]) == repr(measured[1])
