"""The parameter server alone: which gradients it accepts, non-finite values, records, snapshots."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_training import serial_parameters, some_spec

from distsgd.core import reduction
from distsgd.core.optim import l2_loss
from distsgd.core.reduction import PartialSum
from distsgd.engine.serial import SerialLoop
from distsgd.engine.server import ParameterServer
from distsgd.engine.spec import RunSpec
from distsgd.errors import NonFiniteError


class Workers:
    """A link to workers that compute as the serial loop does, shard by shard."""

    def __init__(self, spec: RunSpec) -> None:
        self.buffers = np.zeros((2, spec.net.size), np.float32)
        self.asked: list[tuple[int, int]] = []
        self.spoil: dict[int, float] = {}
        """Values to put into some shard's gradient, by step."""
        self._loop, self._sampler = SerialLoop(spec), spec.plan.sampler

    @np.errstate(all="ignore")
    def exchange(self, step: int, buffer: int, shards: range) -> list[PartialSum]:
        self.asked.append((step, buffer))
        rows = self._sampler.shard_rows(range(step, step + 1), shards)
        partials = [
            self._loop.shard_gradient(self.buffers[buffer], shard, own) for shard, own in zip(shards, rows, strict=True)
        ]
        if step in self.spoil:
            partials[-1].gradient[-1] = self.spoil[step]
        return partials[::-1]


def made(spec: RunSpec, threads: int = 1) -> tuple[ParameterServer, Workers]:
    workers = Workers(spec)
    server = ParameterServer(
        config=spec.config, net=spec.net, plan=spec.plan, start=spec.start, link=workers, threads=threads
    )
    return server, workers


RULES = {
    "plain": {},
    "momentum": {"optim__momentum": 0.9},
    "nesterov": {"optim__momentum": 0.9, "optim__nesterov": True},
    "clipped": {"optim__clip_norm": 0.01},
    "without l2": {"optim__l2": 0},
    "schedule": {"optim__schedule": "cosine", "optim__warmup_steps": 3},
}


@pytest.mark.parametrize("values", RULES.values(), ids=RULES)
def test_every_rule_gives_the_bits_of_the_serial_loop(values):
    server, workers = made(some_spec(**values))
    assert server.run(12) == 12
    assert server.parameters.tobytes() == serial_parameters(some_spec(**values), 12)
    assert [step for step, _ in workers.asked] == list(range(12))


def test_updates_go_to_the_buffer_that_is_not_being_read():
    server, workers = made(some_spec())
    server.run(3)
    before = server.parameters.copy()
    server.run(4)
    assert [buffer for _, buffer in workers.asked] == [0, 1, 0, 1]
    assert np.array_equal(workers.buffers[1], before)
    assert np.array_equal(workers.buffers[0], server.parameters)


@settings(max_examples=50)
@given(st.integers(1, 9), st.data())
def test_gradients_that_do_not_cover_every_shard_exactly_once_are_refused(num_shards, data):
    spec = some_spec(train__num_shards=num_shards)
    server, workers = made(spec)
    partials = workers.exchange(0, 0, range(num_shards))
    chosen = data.draw(st.lists(st.sampled_from(partials), unique_by=lambda partial: partial.node))
    if len(chosen) == num_shards:
        server.apply(chosen)
        assert server.step == 1
        return
    with pytest.raises(ValueError, match=rf"step 1: received gradients for .* of {num_shards} shards"):
        server.apply(chosen)
    assert server.step == 0
    assert server.parameters.tobytes() == spec.start.parameters.tobytes()


def test_duplicate_shards_are_refused():
    server, workers = made(some_spec(train__num_shards=4))
    partials = workers.exchange(0, 0, range(4))
    partials.append(PartialSum((0, 2), partials[0].gradient, 0.0, 1, 1.0))
    with pytest.raises(ValueError, match="step 1: received gradients for"):
        server.apply(partials)


BAD = [math.nan, math.inf, -math.inf]


@pytest.mark.parametrize("value", BAD)
def test_a_non_finite_gradient_stops_training_before_its_step(value):
    spec = some_spec(optim__momentum=0.9)
    server, workers = made(spec)
    workers.spoil = {7: value}
    with pytest.raises(NonFiniteError, match=r"step 8: the mini-batch's loss \(.*\) or gradient is not finite"):
        server.run(20)
    assert server.step == 7
    snapshot = server.snapshot()
    assert snapshot.step == 7
    assert snapshot.parameters.tobytes() == serial_parameters(spec, 7)


@pytest.mark.parametrize("value", BAD)
def test_a_non_finite_gradient_is_skipped_if_so_configured(value):
    spec = some_spec(optim__momentum=0.9, train__on_nonfinite="skip", train__log_every=1)
    server, workers = made(spec)
    workers.spoil = {2: value, 3: value, 9: value}
    states: list[bytes] = []
    for step in range(12):
        server.run(step + 1)
        snapshot = server.snapshot()
        states.append(snapshot.parameters.tobytes() + snapshot.slots["velocity"].tobytes())
    assert [a == b for a, b in itertools.pairwise(states)] == [step + 1 in workers.spoil for step in range(11)]
    assert server.snapshot().skipped == 3
    assert [record.get("train/skipped_steps", 0) for record in server.take_records()] == [0, 0, 1, *[2] * 6, 3, 3, 3]


def test_a_non_finite_loss_stops_training_although_the_gradient_is_finite():
    spec = some_spec()
    server, workers = made(spec)
    partials = workers.exchange(0, 0, range(5))
    partials[2] = partials[2]._replace(loss=math.inf)
    with pytest.raises(NonFiniteError, match=r"loss \(inf\)"):
        server.apply(partials)
    assert server.parameters.tobytes() == spec.start.parameters.tobytes()


def test_an_update_that_overflows_the_weights_is_not_applied():
    server, _ = made(some_spec(optim__lr=1e38))
    with pytest.raises(NonFiniteError):
        server.run(3)
    assert np.isfinite(server.parameters).all()


def test_training_continues_where_it_stopped():
    server, _ = made(some_spec())
    assert [server.run(until) for until in (0, 4, 4, 9)] == [0, 4, 4, 9]
    assert server.parameters.tobytes() == serial_parameters(some_spec(), 9)


def test_stop_takes_effect_after_the_current_step():
    server, workers = made(some_spec())

    exchange = workers.exchange

    def stopping(step: int, buffer: int, shards: range) -> list[PartialSum]:
        if step == 4:
            server.stop()
        return exchange(step, buffer, shards)

    workers.exchange = stopping
    assert server.run(100) == 5
    assert server.snapshot().last_record == {}


def test_records_cover_the_logged_steps_and_are_returned_once():
    spec = some_spec(train__log_every=3)
    server, _ = made(spec)
    server.run(10)
    records = server.take_records()
    assert [record["step"] for record in records] == [3, 6, 9, 10]
    assert server.take_records() == []
    loop, state, losses = SerialLoop(spec), spec.start, {}
    for _ in range(10):
        state, loss = loop.step(state)
        losses[state.step] = loss
    assert [record["train/loss"] for record in records] == [losses[step] for step in (3, 6, 9, 10)]
    assert all(record["time/step_ms"] > 0 and record["time/samples_per_s"] > 0 for record in records)
    assert server.snapshot().last_record == records[-1]
    assert server.timings()["step_ms_p50"] > 0


def test_the_time_between_two_calls_of_run_is_no_step_time(monkeypatch):
    seconds = itertools.count()
    server, _ = made(some_spec(train__log_every=5))
    monkeypatch.setattr("distsgd.engine.server.time.perf_counter", lambda: float(next(seconds)))
    server.run(5)
    for _ in range(1000):
        next(seconds)
    server.run(10)
    assert [record["time/step_ms"] for record in server.take_records()] == [1000, 1000]
    assert server.timings()["step_ms_p95"] == 1000


@pytest.mark.parametrize("until", [2, 3, 4, 6, 8])
def test_the_losses_of_the_epoch_are_those_of_the_serial_loop(until):
    spec = some_spec()  # three steps an epoch
    server, _ = made(spec)
    server.run(until)
    loop, state, losses = SerialLoop(spec), spec.start, []
    for _ in range(until):
        l2 = l2_loss(spec.net, state.parameters, spec.config.optim.l2, np)
        state, loss = loop.step(state)
        losses.append(loss - l2)
    first = (until - 1) // 3 * 3
    found = server.snapshot().epoch_loss
    assert found == state.epoch_loss
    assert found.weight == 32.0 * (until - first)
    assert found.mean == pytest.approx(np.mean(losses[first:]), rel=1e-12)


def test_a_snapshot_is_a_copy_that_a_run_can_resume_from():
    spec = some_spec(optim__momentum=0.5)
    server, _ = made(spec)
    server.run(5)
    snapshot = server.snapshot()
    kept = snapshot.parameters.tobytes(), snapshot.slots["velocity"].tobytes()
    server.run(9)
    assert (snapshot.parameters.tobytes(), snapshot.slots["velocity"].tobytes()) == kept
    workers = Workers(spec)
    other = ParameterServer(config=spec.config, net=spec.net, plan=spec.plan, start=snapshot, link=workers)
    assert other.run(9) == 9
    assert workers.asked[0][0] == 5
    assert other.parameters.tobytes() == server.parameters.tobytes()
    assert np.array_equal(other.snapshot().slots["velocity"], server.snapshot().slots["velocity"])


def test_current_parameters_are_a_copy():
    server, _ = made(some_spec())
    told = server.current_parameters()
    server.run(2)
    assert told.tobytes() == some_spec().start.parameters.tobytes()


def test_subtrees_give_the_same_bits_as_leaves():
    spec = some_spec(train__num_shards=6)
    server, workers = made(spec)
    for step in range(4):
        leaves = workers.exchange(step, step % 2, range(6))
        roots = [root for run in (range(5), range(5, 6)) for root in reduction.maximal_subtrees(run, 6)]
        server.apply([reduction.sum_over(root, leaves) for root in roots])
    assert server.parameters.tobytes() == serial_parameters(spec, 4)
