"""Steps in which every node owns a slice of the parameters: the serial bits, and what happens if a member is lost."""

from __future__ import annotations

import os
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_training import serial_parameters, some_spec
from runs import eventually
from sliced_nodes import SlicedNodes, sliced_nodes

from distsgd.cluster.view_offer import ViewServing
from distsgd.core import numerics
from distsgd.engine.serial import SerialLoop
from distsgd.engine.spec import RunSpec
from distsgd.errors import NonFiniteError, ServerLostError, TrainingError

MOMENTUM = {"optim__momentum": 0.9}
RULES = [
    {},
    MOMENTUM,
    {"optim__momentum": 0.8, "optim__nesterov": True, "optim__clip_norm": 0.5},
    {"optim__schedule": "cosine", "optim__clip_norm": 0.1},
    {"optim__rule": "adamw", "optim__weight_decay": 0.01},
]


@pytest.mark.parametrize("workers", [[1, 1], [1, 2], [2, 1, 3], [1, 1, 1, 1], [0, 1, 1]], ids=str)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: ",".join(rule) or "plain")
def test_any_nodes_give_the_serial_bits(workers, rule):
    spec = some_spec(train__num_shards=7, **rule)
    with sliced_nodes(spec, workers) as nodes:
        server = nodes.head.server
        if workers[0]:
            server.run(2)
        nodes.offer()
        assert server.run(11) == 11
        assert server.slices() == (1, 0, "")
        assert server.run(30) == 30
        assert server.slices() == (1, 0, "")
        assert server.snapshot().parameters.tobytes() == serial_parameters(spec, 30)


@pytest.mark.slow
@settings(max_examples=60 if os.environ.get("CI") else 200, deadline=None)
@given(
    workers=st.lists(st.integers(1, 3), min_size=2, max_size=8),
    num_shards=st.integers(1, 12),
    hidden=st.integers(1, 40),
    rule=st.sampled_from(RULES),
    alone=st.integers(0, 3),
)
def test_two_hundred_cases_of_nodes_and_slices_give_the_serial_bits(workers, num_shards, hidden, rule, alone):
    # A worker has at least a shard, as configurations say.
    shards = max(num_shards, sum(workers))
    spec = some_spec(model__hidden=hidden, train__num_shards=shards, train__batch_size=48, **rule)
    with sliced_nodes(spec, workers) as nodes:
        server = nodes.head.server
        server.run(alone)
        nodes.offer()
        server.run(9)
        assert server.slices() == (1, 0, "")
        assert server.snapshot().parameters.tobytes() == serial_parameters(spec, 9)


def state_after(spec: RunSpec, steps: int) -> Any:
    loop, state = SerialLoop(spec), spec.start
    with numerics.pinned_blas(1, None), np.errstate(all="ignore"):
        for _ in range(steps):
            state, _ = loop.step(state)
    return state


def assert_same_state(found: Any, expected: Any) -> None:
    assert found.step == expected.step
    assert found.parameters.tobytes() == expected.parameters.tobytes()
    assert {k: v.tobytes() for k, v in found.slots.items()} == {k: v.tobytes() for k, v in expected.slots.items()}


def test_a_snapshot_during_training_has_the_state_that_others_hold():
    spec = some_spec(train__max_steps=100_000, train__epochs=100_000, **MOMENTUM)
    with sliced_nodes(spec, [1, 1, 2]) as nodes:
        server = nodes.head.server
        nodes.offer()
        thread = threading.Thread(target=server.run, args=[100_000])
        thread.start()
        try:
            found = [server.snapshot() for _ in range(5)]
        finally:
            server.stop()
            thread.join(20)
        assert not thread.is_alive()
        assert server.slices() == (1, 0, "")
        found.append(server.snapshot())
    steps = [snapshot.step for snapshot in found]
    assert steps == sorted(steps)
    for snapshot in found[:2] + found[-1:] if found[-1].step < 3000 else found[:2]:
        assert_same_state(snapshot, state_after(spec, snapshot.step))


def open_descriptors() -> list[str]:
    return os.listdir("/proc/self/fd")


def test_views_follow_each_other_and_leave_no_connection_open():
    spec = some_spec(train__num_shards=6, **MOMENTUM)
    with sliced_nodes(spec, [1, 1, 1]) as nodes:
        server = nodes.head.server
        open_files = []
        for number in range(1, 13):
            nodes.offer(number)
            server.run(2 * number)
            assert server.slices() == (number, number - 1, "")
            eventually(lambda: len(open_descriptors()) <= min([*open_files, 10_000]))  # followers close theirs
            open_files.append(len(open_descriptors()))
        assert open_files[-1] == open_files[0], "the connections of views that are over stay open"
        assert_same_state(server.snapshot(), state_after(spec, 24))


def test_a_view_of_others_than_those_that_are_there_is_not_used():
    spec = some_spec(**MOMENTUM)
    with sliced_nodes(spec, [1, 1]) as nodes:
        server = nodes.head.server
        nodes.offer()
        nodes.head.start_worker()
        server.run(8)
        assert server.slices() == (0, 1, "workers have joined or left meanwhile")
        assert server.parameters.tobytes() == serial_parameters(spec, 8)


class Failing:
    """A mesh that does something else instead of a method in a step."""

    def __init__(self, mesh: Any, method: str, step: int, do: Any) -> None:
        self._mesh, self._method, self._at, self._do = mesh, method, step, do

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._mesh, name)
        if name != self._method:
            return found

        def call(step: int, *args: Any, **kwargs: Any) -> Any:
            if step == self._at:
                self._do(self._mesh)
            return found(step, *args, **kwargs)

        return call


def failing(nodes: SlicedNodes, member: int, method: str, step: int, do: Any) -> None:
    nodes.wrap = lambda other, mesh: Failing(mesh, method, step, do) if other == member else mesh


@pytest.mark.parametrize("method", ["scatter", "gather"])
@pytest.mark.parametrize("workers", [[1, 1], [1, 1, 2]], ids=str)
def test_the_loss_of_a_members_connections_changes_nothing(method, workers):
    spec = some_spec(train__num_shards=6)
    with sliced_nodes(spec, workers) as nodes:
        failing(nodes, 1, method, 7, lambda mesh: mesh.close())
        server = nodes.head.server
        nodes.offer()
        assert server.run(12) == 12
        view, ended, problem = server.slices()
        assert (view, ended) == (0, 1)
        assert "127.0.0.1:" in problem
        nodes.wrap = lambda _, mesh: mesh
        nodes.offer(2)
        assert server.run(20) == 20
        assert server.slices()[:2] == (2, 1)
        assert server.parameters.tobytes() == serial_parameters(spec, 20)


def test_state_that_is_lost_with_a_member_is_said_to_be():
    spec = some_spec(train__num_shards=6, **MOMENTUM)
    with sliced_nodes(spec, [1, 1, 1]) as nodes:
        failing(nodes, 2, "gather", 7, lambda mesh: mesh.close())
        server = nodes.head.server
        nodes.offer()
        with pytest.raises(ServerLostError, match=r"worker [01] was lost with its slice of the update rule's state"):
            server.run(12)
        assert server.step == 7
        with pytest.raises(ServerLostError, match="lost with its slice"):  # and not what is left of it
            server.snapshot()
        assert server.current_parameters().tobytes() == serial_parameters(spec, 7)


def test_a_member_that_is_lost_while_all_hold_takes_nothing_with_it():
    spec = some_spec(train__num_shards=6, **MOMENTUM)
    with sliced_nodes(spec, [1, 1, 1]) as nodes:
        server = nodes.head.server
        nodes.offer()
        server.run(7)
        nodes.meshes[2].shut_down()
        assert server.run(12) == 12
        assert server.slices()[:2] == (0, 1)
        assert_same_state(server.snapshot(), state_after(spec, 12))


@pytest.mark.parametrize("rule", [{}, MOMENTUM], ids=["plain", "momentum"])
def test_an_error_in_a_members_computation_ends_the_run(rule):
    spec = some_spec(**rule)
    with sliced_nodes(spec, [1, 1]) as nodes:
        server, worker = nodes.head.server, nodes.members[0].computer
        compute = worker.compute

        def fails(step: int, *args: Any) -> Any:
            if step == 4:
                raise ValueError("a row that cannot be read")
            return compute(step, *args)

        worker.compute = fails
        nodes.offer()
        with pytest.raises(TrainingError, match="worker 0 failed in step 5: ValueError: a row that cannot be read"):
            server.run(12)
        if rule:
            with pytest.raises(ServerLostError, match="lost with its slice"):
                server.snapshot()
        else:
            assert_same_state(server.snapshot(), state_after(spec, 4))


def test_without_workers_on_the_servers_node_the_others_do_the_step_and_no_state_is_lost():
    spec = some_spec(train__num_shards=6, **MOMENTUM)
    with sliced_nodes(spec, [1, 1, 2]) as nodes:
        server = nodes.head.server
        nodes.offer()
        server.run(5)
        nodes.head.local_endpoints[0].disconnect()
        assert server.run(12) == 12
        assert server.slices()[:2] == (0, 1)
        assert_same_state(server.snapshot(), state_after(spec, 12))


@pytest.mark.parametrize("member", [1, 2])
def test_a_silent_member_is_named_with_both_ends(member):
    spec = some_spec(train__num_shards=6)
    woken = threading.Event()
    with sliced_nodes(spec, [1, 1, 1], timeout_s=1.0) as nodes:
        failing(nodes, member, "scatter", 7, lambda _: woken.wait(20))
        server = nodes.head.server
        nodes.offer()
        try:
            assert server.run(12) == 12
        finally:
            woken.set()
        [(name, problem)] = nodes.head.lost()
        assert name == f"worker {member - 1}"
        assert "has not sent its gradients of step 8 for 1 s, by the connection from 127.0.0.1:" in problem
        assert server.parameters.tobytes() == serial_parameters(spec, 12)


def test_a_connection_between_two_others_that_stalls_is_reported_by_one_of_them():
    spec = some_spec(train__num_shards=6)
    with sliced_nodes(spec, [1, 1, 1], timeout_s=4.0) as nodes:

        def stall(mesh: Any) -> None:
            for channel in mesh._channels:
                if channel.member == 1:
                    channel.stream.push = lambda left: not left  # sends nothing any more

        for member in nodes.members:  # the others wait for less than the server does
            member.timeout_s = 0.4
        failing(nodes, 2, "scatter", 7, stall)
        server = nodes.head.server
        nodes.offer()
        assert server.run(12) == 12
        assert (
            "worker 1 has not sent its gradients of step 8 for 0.6 s, by the connection from" in server.slices().problem
        )
        assert nodes.head.lost() == []
        assert server.parameters.tobytes() == serial_parameters(spec, 12)


@pytest.mark.parametrize("rule", [{}, MOMENTUM], ids=["plain", "momentum"])
def test_updates_that_are_not_finite_are_skipped_by_all(rule):
    spec = some_spec(optim__lr=1e30, train__on_nonfinite="skip", train__num_shards=3, **rule)
    with sliced_nodes(spec, [1, 1, 1]) as nodes:
        server = nodes.head.server
        nodes.offer()
        server.run(12)
        assert server.slices() == (1, 0, "")
        expected = state_after(spec, 12)
        assert server.skipped == expected.skipped > 0
        assert_same_state(server.snapshot(), expected)


def test_an_update_that_is_not_finite_ends_the_run_with_the_state_before_it():
    spec = some_spec(optim__lr=1e18, train__num_shards=3, **MOMENTUM)
    loop, before = SerialLoop(spec), spec.start
    with numerics.pinned_blas(1, None), np.errstate(all="ignore"):
        for _ in range(20):
            try:
                before, _ = loop.step(before)
            except NonFiniteError:
                break
    assert 0 < before.step < 20
    with sliced_nodes(spec, [1, 1, 1]) as nodes:
        server, found = nodes.head.server, []
        asking = threading.Thread(target=lambda: found.append(server.snapshot()))

        def ask(_: Any) -> None:
            asking.start()
            assert eventually(lambda: server._snapshot_wanted, 10)

        failing(nodes, 0, "gather", before.step, ask)
        nodes.offer()
        with pytest.raises(NonFiniteError):
            server.run(12)
        assert_same_state(server.snapshot(), before)
        asking.join(20)  # who waits for a snapshot gets it as well
        assert_same_state(found[0], before)


def test_a_view_that_was_not_joined_or_is_outdated_ends_at_once():
    ViewServing(("endpoint", 0), threads=1, spin=False).serve(1, 0)
