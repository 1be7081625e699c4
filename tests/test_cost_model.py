"""The cost model: it finds the costs that its points were made with, and predicts what its formulas say."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from benchmarks.cost_model import Model, Point, fit
from benchmarks.machine import facts
from benchmarks.scaling_report import markdown

COSTS = Model(
    step=80e-6,
    worker=30e-6,
    flop=1 / 50e9,
    gather=0.3e-9,
    update=0.6e-9,
    add=0.2e-9,
    call=1e-3,
    aggregator=0.4e-3,
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
        Point(parameters=parameters, aggregators=aggregators, seconds=COSTS.between(parameters, aggregators + 1))
        for parameters, aggregators in itertools.product(SIZES, (1, 2, 4))
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
    assert COSTS.between(10**6, 1) == 0


def test_slices_share_the_servers_work_until_the_aggregators_have_more():
    alone, eight, many = (COSTS.between(3_000_000, 64, slices) for slices in (1, 8, 4096))
    assert alone == pytest.approx(1e-3 + 63 * (0.4e-3 + 24e6 / 500e6))
    assert eight == pytest.approx(1e-3 + 63 * (0.4e-3 + 3e6 / 500e6))
    assert many == pytest.approx(1e-3 + 4096 * 0.4e-3 + 24e6 / 500e6)


def test_sockets_carry_two_vectors_whatever_the_number_of_nodes():
    assert COSTS.over_sockets(10**6, 2) < COSTS.over_sockets(10**6, 1024) < 2.5 * 8e6 / 3.125e9 + 0.0103 + 1e-4


@pytest.mark.parametrize("slices", [1, 8])
def test_the_most_nodes_are_the_last_that_spend_no_more_time_between(slices):
    for parameters in SIZES:
        nodes = COSTS.most_nodes(parameters, 784, 2048, 8, slices)
        within = COSTS.node(parameters, 784, 2048, 8)
        assert COSTS.between(parameters, nodes, slices) <= within < COSTS.between(parameters, nodes + 1, slices)


def test_the_report_has_a_line_for_everything_measured():
    serial = [Point(parameters=p, features=784, batch=b, seconds=1e-3) for p, b in itertools.product(SIZES, (64, 1024))]
    mine = [p for p in steps() if p.features == 784]
    two_nodes = [dataclasses.replace(p, workers=1, nodes=2) for p in mine if p.workers == 2]
    text = markdown(COSTS, [*serial, *mine, *exchanges(), *two_nodes], facts(), 3, [0.5, 2.0])
    assert text.count("\n| 2,395") == 2 + 1 + 2 + 3 + 1
    assert "load average 0.5 to 2.0 meanwhile." in text
    assert "50 Gflop/s" in text
    assert "500 MB/s" in text
