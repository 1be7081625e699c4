"""The results section of docs/scaling.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.cost_model import MOST, Model, Point, network_s
from benchmarks.summary import milliseconds

CROWDS = ((8, 1), (64, 8), (1024, 64))
"""Numbers of workers and nodes in the predictions."""

EXAMPLES = (32, 256, 2048)
"""Examples per worker in a step."""

FEATURES = 784


def ms(seconds: float) -> str:
    """Return seconds as milliseconds with three significant digits."""
    return milliseconds(1e3 * seconds)


def grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a Markdown table with all columns but the first right-aligned."""
    return [
        "| " + " | ".join(head) + " |",
        "|---|" + "--:|" * (len(head) - 1),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]


def markdown(
    model: Model, points: Sequence[Point], facts: Mapping[str, Any], rounds: int, loads: Sequence[float]
) -> str:
    """Return all tables: the fitted costs, measurements next to the model's values, and predictions."""
    steps = [point for point in points if not point.is_exchange and point.nodes == 1]
    exchanges = [point for point in points if point.is_exchange]
    two_nodes = [point for point in points if not point.is_exchange and point.nodes == 2]
    sizes = sorted({point.parameters for point in exchanges})
    conditions = (
        f"{facts['processor']}, {facts['cores']} cores, {facts['system']}; Python {facts['python']}, "
        f"numpy {facts['numpy']}, ray {facts['ray']}. The fastest of {rounds} rounds, each the median of its steps; "
        f"load average {min(loads):.1f} to {max(loads):.1f} meanwhile."
    )
    return "\n".join(
        [
            conditions,
            "",
            "### The costs",
            "",
            *_costs(model),
            "",
            "### One node: milliseconds a step, measured, and in brackets what the model says",
            "",
            *_one_node(model, steps),
            "",
            "### Between nodes of one machine: milliseconds of an exchange without arithmetic, measured (model)",
            "",
            *_exchanges(model, exchanges),
            "",
            "### Two nodes on one machine, a worker each: milliseconds a step, measured (model)",
            "",
            *_two_nodes(model, two_nodes),
            "",
            "### Predicted: milliseconds within a node and between nodes, and the share of the step that is within",
            "",
            *_predictions(model, sizes),
            "",
            "### Predicted: nodes up to which no more time goes between nodes than within one, 8 workers on each",
            "",
            *_saturation(model, sizes),
        ]
    )


def _costs(model: Model) -> list[str]:
    rows = [
        ("a step", f"{1e6 * model.step:.0f} µs"),
        ("each worker of a node", f"{1e6 * model.worker:.0f} µs"),
        ("arithmetic, one worker", f"{1e-9 / model.flop:.0f} Gflop/s" if model.flop else "nothing"),
        ("gathering, one worker", f"{1e9 * model.gather:.2f} ns a number"),
        ("update, one thread", f"{1e9 * model.update:.2f} ns a parameter"),
        ("adding a gradient, one thread", f"{1e9 * model.add:.2f} ns a parameter"),
        ("an exchange between nodes", f"{1e6 * model.exchange:.0f} µs"),
        ("each other node in it", f"{1e6 * model.peer:.0f} µs"),
        ("bytes that a node sends and receives", f"{1e-6 / model.byte:.0f} MB/s" if model.byte else "nothing"),
    ]
    return grid(("what", "cost"), rows)


def _one_node(model: Model, steps: Sequence[Point]) -> list[str]:
    rows: dict[tuple[int, int], list[str]] = {}
    for point in steps:
        cell = ms(point.seconds)
        if point.workers:
            share = point.batch / point.workers
            cell += f" ({ms(model.node(point.parameters, point.features, share, point.workers))})"
        rows.setdefault((point.parameters, point.batch), []).append(cell)
    return grid(
        ("parameters, mini-batch", "serial loop", "1 worker", "2 workers"),
        [(f"{parameters:,}, {batch}", *cells) for (parameters, batch), cells in rows.items()],
    )


def _exchanges(model: Model, exchanges: Sequence[Point]) -> list[str]:
    rows: dict[int, list[str]] = {}
    for point in exchanges:
        expected = model.on_shared_cores(point.parameters, point.nodes)
        rows.setdefault(point.parameters, []).append(f"{ms(point.seconds)} ({ms(expected)})")
    counts = sorted({point.nodes for point in exchanges})
    return grid(
        ("parameters", *(f"{count} nodes" for count in counts)),
        [(f"{parameters:,}", *cells) for parameters, cells in rows.items()],
    )


def _two_nodes(model: Model, points: Sequence[Point]) -> list[str]:
    rows = []
    for point in points:
        within = model.node(point.parameters, point.features, point.batch / 2, 1)
        expected = within + model.between(point.parameters, 2)
        rows.append((f"{point.parameters:,}, {point.batch}", f"{ms(point.seconds)} ({ms(expected)})"))
    return grid(("parameters, mini-batch", "a step"), rows)


def _predictions(model: Model, sizes: Sequence[int]) -> list[str]:
    rows = []
    for parameters in sizes:
        for workers, nodes in CROWDS:
            within = model.node(parameters, FEATURES, EXAMPLES[1], workers // nodes)
            ways = [way(parameters, nodes) for way in (model.one_server, model.between)]
            ways.append(ways[-1] + network_s(parameters, nodes))
            cells = [f"{ms(way)}, {100 * within / (within + way):.0f} %" if nodes > 1 else "-" for way in ways]
            rows.append((f"{parameters:,}", f"{workers:,} on {nodes}", ms(within), *cells))
    return grid(
        ("parameters", "workers on nodes", "within a node", "one server", "a slice a node", "with 25 Gbit/s"), rows
    )


def _saturation(model: Model, sizes: Sequence[int]) -> list[str]:
    counts = {
        parameters: [model.most_nodes(parameters, FEATURES, examples, 8) for examples in EXAMPLES]
        for parameters in sizes
    }
    rows = [
        (f"{parameters:,}", *(f"{count:,}" if count < MOST else "no limit" for count in found))
        for parameters, found in counts.items()
    ]
    return grid(("parameters", *(f"{examples} examples a worker" for examples in EXAMPLES)), rows)
