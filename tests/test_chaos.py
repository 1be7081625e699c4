"""Whatever dies or hangs, whenever: the undisturbed run's bits, journal and MLflow history, and nothing left over."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from chaos.harness import Harness, harness
from chaos.schedule import SHAPES, Schedule, Strike, draw, draw_network
from namespaces import unavailable

from distsgd.system.faults import Fault

QUICK = SHAPES["digits"][0]
"""138 steps."""

NAMED = {
    "a worker killed in a step, another in validation": (
        [Fault("worker", 1, 20, "computed"), Fault("worker", 0, 1, "validating")],
        {"workers": 3},
    ),
    "a stopped worker, and the server killed while it is waited for": (
        [Fault("worker", 0, 30, "asked", "SIGSTOP"), Fault("server", 0, 40, "gathered")],
        {"workers": 2},
    ),
    "the server killed with a worker, and in validation": (
        [Fault("server", 0, 10, "begun"), Fault("worker", 0, 10, "answered"), Fault("server", 0, 92, "validating")],
        {"workers": 2},
    ),
    "the driver killed after a line, and before MLflow is told of the end": (
        [Fault("driver", 0, 50, "journaled"), Fault("driver", 0, 138, "written")],
        {"workers": 2},
    ),
    # in validation, whose one block worker 0 computes: workers of an aggregator that died may not be back in a step
    # before the run is over
    "an aggregator killed in a step, and a worker in validation": (
        [Fault("aggregator", 0, 10, "gathered"), Fault("worker", 0, 1, "validating")],
        {"workers": 4, "two_nodes": True},
    ),
}


@pytest.fixture(scope="module")
def chaos() -> Iterator[Harness]:
    with harness() as found:
        yield found


def assert_as_if_nothing_had_happened(chaos: Harness, schedule: Schedule) -> None:
    report = chaos.carry_out(schedule)
    assert not report.problems, "\n".join([str(schedule), report.output, *report.problems])


@pytest.mark.chaos
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", NAMED)
def test_named_faults(chaos, name):
    faults, values = NAMED[name]
    shape = {"shape": QUICK, "two_nodes": False, "link": "auto"} | values
    schedule = Schedule(seed=0, faults=tuple(faults), **shape)
    report = chaos.carry_out(schedule)
    assert not report.problems, "\n".join([report.output, *report.problems])
    assert report.struck.total() == len(faults), report.output


@pytest.mark.chaos
@pytest.mark.timeout(300)
def test_named_faults_of_a_network(chaos):
    if reason := unavailable():
        pytest.skip(reason)
    strikes = (Strike("cut", 1, 2, 300, 6.0), Strike("kill", 2, 0, 900, 0.0))
    schedule = Schedule(0, SHAPES["digits"][1], 3, False, "auto", (), (1, 1, 1), strikes)
    report = chaos.carry_out(schedule)
    assert not report.problems, "\n".join([report.output, *report.problems])
    assert report.struck["network"] == len(strikes), report.output


@pytest.mark.chaos
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(5))
def test_random_faults(chaos, seed):
    assert_as_if_nothing_had_happened(chaos, draw(seed, "digits"))


@pytest.mark.chaos
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(5))
def test_random_faults_of_a_network(chaos, seed):
    if reason := unavailable():
        pytest.skip(reason)
    assert_as_if_nothing_had_happened(chaos, draw_network(seed))


def test_a_seed_stands_for_one_schedule():
    seeds = [random.randrange(2**32) for _ in range(20)]
    assert [draw(seed, "digits") for seed in seeds] == [draw(seed, "digits") for seed in seeds]
    assert len({str(draw(seed, "digits")) for seed in seeds}) == len(set(seeds))
