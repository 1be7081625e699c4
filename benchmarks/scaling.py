"""Fit the cost model of a step to short runs, and predict larger clusters: `python -m benchmarks.scaling`.

Real runs of `distsgd train` on one node with zero, one and two workers, then `benchmarks.exchange` between two raylets.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import click
from rich.console import Console

from benchmarks import machine, options, report
from benchmarks.contestants import REPOSITORY
from benchmarks.cost_model import Model, Point, fit
from benchmarks.scaling_report import markdown
from benchmarks.scaling_runs import run, shapes
from distsgd.core import numerics


def measure(folder: Path, seconds: float) -> Iterator[Point]:
    """Yield one round of measurements: runs on one node, exchanges, and runs on two nodes."""
    for shape, workers in itertools.product(shapes(), (0, 1, 2)):
        yield run(shape, workers, folder, seconds)
    environment = os.environ | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        **numerics.environment(1, None),
    }
    command = [sys.executable, "-m", "benchmarks.exchange", str(folder), str(seconds)]
    with subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                yield Point(**json.loads(line))
    if process.returncode:
        raise click.ClickException(f"benchmarks.exchange ended with exit code {process.returncode}")


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
