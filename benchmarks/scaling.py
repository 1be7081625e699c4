"""Fit the cost model of a step to short runs, and predict larger clusters: `python -m benchmarks.scaling`.

Real runs of `distsgd train` on one node with zero, one and two workers; the exchange between two, four and eight nodes
in network namespaces of this machine; and real runs on two of them. It needs root.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import click
from rich.console import Console

from benchmarks import machine, node_contestants, options, report
from benchmarks.contestants import Settings
from benchmarks.cost_model import Model, Point, fit
from benchmarks.node_contestants import MESH, OURS_NODES, place_for, ray_environment
from benchmarks.scaling_report import markdown
from benchmarks.scaling_runs import BATCHES, run, shapes
from benchmarks.shapes import make_data

NODES = (2, 4, 8)
"""Numbers of nodes between which the exchange is timed."""


def measure(folder: Path, seconds: float) -> Iterator[Point]:
    """Yield one round of measurements: runs on one node, exchanges, and runs on two nodes."""
    for shape, workers in itertools.product(shapes(), (0, 1, 2)):
        yield run(shape, workers, folder, seconds)
    environment = ray_environment(secrets.token_hex(32))
    for nodes in NODES:
        settings = Settings(workers=nodes, threads=1, seconds=seconds)
        contestants = [MESH, OURS_NODES] if nodes == 2 else [MESH]
        with place_for(contestants, nodes, environment) as place:
            for shape in shapes():
                data = make_data(shape, "float32", folder)
                for contestant in contestants:
                    if contestant is MESH and shape.batch != BATCHES[0]:  # which the exchange does not depend on
                        continue
                    found = node_contestants.measure(contestant, shape, data, settings, place, environment)
                    point = Point(
                        parameters=shape.parameters,
                        features=shape.features,
                        batch=shape.batch,
                        workers=1,
                        nodes=nodes,
                        is_exchange=contestant is MESH,
                    )
                    yield dataclasses.replace(point, seconds=1e-3 * float(found["step_ms_p50"]))


@click.command()
@options.rounds
@options.seconds
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path(__file__).parent / "results" / "scaling.json",
    help="Output file for all measurements and the model.",
)
@click.option("--markdown", "page", type=click.Path(path_type=Path, exists=True), help="File with results to update.")
def main(rounds: int, seconds: float, out: Path, page: Path | None) -> None:
    """Time short runs, fit the cost model and print its predictions."""
    console, loads = Console(), [machine.load_average()]
    found: dict[Point, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="distsgd-bench-", ignore_cleanup_errors=True) as folder:
        for number in range(rounds):
            for point in measure(Path(folder), seconds):
                found.setdefault(dataclasses.replace(point, seconds=0.0), []).append(point.seconds)
                console.print(f"round {number + 1}/{rounds}  {point}", highlight=False, soft_wrap=True)
            loads.append(machine.load_average())
    # The fastest round shows what the machine can do; slower rounds were disturbed by other processes.
    points = [dataclasses.replace(point, seconds=min(taken)) for point, taken in found.items()]
    model = fit(points, machine.cores())
    text = markdown(model, points, machine.facts(), rounds, loads)
    console.print(text, highlight=False, soft_wrap=True)
    write(out, model, found, loads)
    if page is not None:
        report.replace_results(page, text)


def write(out: Path, model: Model, found: Mapping[Point, list[float]], loads: list[float]) -> None:
    """Write all measurements and the model as JSON."""
    measurements = [dataclasses.asdict(point) | {"seconds": taken} for point, taken in found.items()]
    content = {"machine": machine.facts(), "loads": loads, "model": dataclasses.asdict(model), "points": measurements}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
