"""Which updates are applied: the serial loop and the parameter server use the same rule."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from plain_training import some_spec, training

from distsgd.config import TrainConfig
from distsgd.data import ArrayRows
from distsgd.engine.acceptance import is_applied
from distsgd.engine.local import LocalTrainer
from distsgd.engine.spec import RunSpec
from distsgd.errors import NonFiniteError


def exploding(**values) -> RunSpec:
    """A run whose features are zero and whose L2 doubles the weights in each step: 2^100 times, which float32 holds."""
    spec = some_spec(optim__lr=1, optim__l2=1.5, train__max_steps=100, train__epochs=100, **values)
    rows = ArrayRows(np.zeros_like(spec.data.train.X), spec.data.train.y)
    return dataclasses.replace(spec, data=dataclasses.replace(spec.data, train=rows))


@pytest.mark.timeout(100)
def test_an_overflow_of_the_l2_term_alone_skips_no_step():
    spec = exploding(train__on_nonfinite="skip")
    local = LocalTrainer(spec)
    try:
        assert local.run(100, lambda: None) == 100
    finally:
        local.close()
    with training(spec, workers=1) as found:
        found.server.run(100)
        server = found.server.snapshot()
    serial = local.snapshot()
    assert (serial.skipped, server.skipped) == (0, 0)
    assert serial.parameters.tobytes() == server.parameters.tobytes()
    assert np.abs(serial.parameters).max() > 2.0**90


@pytest.mark.timeout(100)
def test_serial_loop_and_server_skip_the_same_steps_when_the_weights_overflow():
    spec = some_spec(optim__lr=1, optim__l2=3.0, optim__momentum=0.5, train__epochs=200, train__on_nonfinite="skip")
    local = LocalTrainer(spec)
    try:
        local.run(150, lambda: None)
    finally:
        local.close()
    with training(spec, workers=1) as found:
        found.server.run(150)
        server = found.server.snapshot()
    serial = local.snapshot()
    assert serial.skipped == server.skipped > 0
    assert serial.parameters.tobytes() == server.parameters.tobytes()
    assert serial.slots["velocity"].tobytes() == server.slots["velocity"].tobytes()


def test_the_serial_loop_stops_before_the_offending_step():
    spec = some_spec(optim__lr=1e38)
    local = LocalTrainer(spec)
    try:
        with pytest.raises(NonFiniteError, match=r"step \d+: the mini-batch's loss \(.*\) or gradient is not finite"):
            local.run(20, lambda: None)
    finally:
        local.close()
    assert np.isfinite(local.snapshot().parameters).all()


@pytest.mark.parametrize("loss", [1.0, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("finite", [True, False])
def test_loss_and_parameters_have_to_be_finite(loss, finite):
    good = finite and loss == 1
    assert is_applied(TrainConfig(on_nonfinite="skip"), 3, loss, finite=finite) == good
    if good:
        assert is_applied(TrainConfig(), 3, loss, finite=finite)
    else:
        with pytest.raises(NonFiniteError, match=r"step 3: the mini-batch's loss"):
            is_applied(TrainConfig(), 3, loss, finite=finite)
