"""The example transport in the docstring of `Peer`."""

from __future__ import annotations

import inspect
import textwrap

import numpy as np
import pytest
from plain_training import serial_parameters, some_spec, training, worker_of

from distsgd.comm.transport import Peer
from distsgd.errors import TrainingError


@pytest.fixture
def example() -> type:
    """The class in the docstring, compiled from its text."""
    lines = inspect.getdoc(Peer).splitlines()
    code = textwrap.dedent("\n".join(line for line in lines if not line or line.startswith("    ")))
    names: dict[str, type] = {}
    exec(code, names)
    return names["InProcessPeer"]


def test_a_peer_as_in_the_docstring_trains_with_the_serial_bits(example):
    spec = some_spec()
    with training(spec, workers=1) as found, np.errstate(all="ignore"):
        found.dispatcher.members.join(example(worker_of(spec), found.dispatcher.buffers))
        assert found.dispatcher.members.size() == 2
        assert found.server.run(10) == 10
        assert found.server.parameters.tobytes() == serial_parameters(spec, 10)
        assert not found.dispatcher.members.take_lost_peers()


def test_a_peer_as_in_the_docstring_reports_an_error(example):
    class Broken:
        def compute(self, step, flat, shards):
            raise ValueError("bad rows")

    with training(some_spec(), workers=0) as found:
        found.dispatcher.members.join(example(Broken(), found.dispatcher.buffers))
        with pytest.raises(TrainingError, match="worker 0 on localhost failed in step 1: bad rows"):
            found.server.run(1)
