"""The cost model: it finds the costs that its points were made with, and predicts what its formulas say."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from benchmarks.cost_model import Model, Point, fit, network_s
from benchmarks.machine import facts
from benchmarks.scaling_report import markdown

COSTS = Model(
    step=80e-6,
    worker=30e-6,
    flop=1 / 50e9,
    gather=0.3e-9,
    update=0.6e-9,
    add=0.2e-9,
    exchange=40e-6,
    peer=30e-6,
    byte=1 / 500e6,
    cores=2,
)

SIZES = (2_395, 62_018, 814_090, 3_256_330)


def steps() -> list[Point]:
    made = [
        Point(parameters=parameters, features=features, batch=batch, workers=workers)
        for parameters, features, batch, workers in itertools.product(SIZES, (784, 64), (64, 1024), (1, 2))
    ]
    return [
        dataclasses.replace(p, seconds=COSTS.node(p.parameters, p.features, p.batch / p.workers, p.workers))
        for p in made
    ]


def exchanges() -> list[Point]:
    return [
        Point(parameters=parameters, nodes=nodes, is_exchange=True, seconds=COSTS.on_shared_cores(parameters, nodes))
        for parameters, nodes in itertools.product(SIZES, (2, 4, 8))
    ]


def test_the_fit_finds_the_costs_that_the_points_were_made_with():
    found = fit([*steps(), *exchanges()], cores=2)
    for name, value in dataclasses.asdict(COSTS).items():
        assert getattr(found, name) == pytest.approx(value, rel=1e-3), name


def test_the_serial_loop_and_steps_on_two_nodes_are_not_fitted():
    others = [dataclasses.replace(p, seconds=9.0, workers=w, nodes=n) for p in steps() for w, n in ((0, 1), (1, 2))]
    points = [*steps(), *exchanges()]
    assert fit([*points, *others], cores=2) == fit(points, cores=2)


def test_no_cost_is_negative_whatever_was_measured():
    noisy = [dataclasses.replace(p, seconds=p.seconds * (0.2 + n % 5)) for n, p in enumerate(steps())]
    found = fit([*noisy, *exchanges()], cores=2)
    assert min(dataclasses.asdict(found).values()) >= 0


def test_one_node_has_nothing_between():
    assert COSTS.between(10**6, 1) == COSTS.one_server(10**6, 1) == network_s(10**6, 1) == 0


def test_a_slice_a_node_carries_two_vectors_whatever_the_number_of_nodes():
    assert COSTS.between(3_000_000, 2) == pytest.approx(70e-6 + 12e6 / 500e6)
    assert COSTS.between(3_000_000, 64) == pytest.approx(40e-6 + 63 * 30e-6 + 24e6 * 63 / 64 / 500e6)
    assert COSTS.one_server(3_000_000, 64) == pytest.approx(40e-6 + 63 * (30e-6 + 24e6 / 500e6))
    assert network_s(10**6, 2) < network_s(10**6, 1024) < 8e6 / 3.125e9 + 1e-4


def test_nodes_that_share_two_cores_take_turns():
    assert COSTS.on_shared_cores(10**6, 2) == COSTS.between(10**6, 2)
    assert COSTS.on_shared_cores(10**6, 8) == 4 * COSTS.between(10**6, 8)


def test_the_most_nodes_are_the_last_that_spend_no_more_time_between():
    for parameters in SIZES:
        nodes = COSTS.most_nodes(parameters, 784, 256, 8)
        within = COSTS.node(parameters, 784, 256, 8)
        between = [COSTS.between(parameters, n) + network_s(parameters, n) for n in (nodes, nodes + 1)]
        assert between[0] <= within < between[1]


def test_the_report_has_a_line_for_everything_measured():
    serial = [Point(parameters=p, features=784, batch=b, seconds=1e-3) for p, b in itertools.product(SIZES, (64, 1024))]
    mine = [p for p in steps() if p.features == 784]
    two_nodes = [dataclasses.replace(p, workers=1, nodes=2) for p in mine if p.workers == 2]
    text = markdown(COSTS, [*serial, *mine, *exchanges(), *two_nodes], facts(), 3, [0.5, 2.0])
    assert text.count("\n| 2,395") == 2 + 1 + 2 + 3 + 1
    assert "load average 0.5 to 2.0 meanwhile." in text
    assert "50 Gflop/s" in text
    assert "500 MB/s" in text
