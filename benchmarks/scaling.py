"""What a step costs, fitted from short runs here, and what follows for more workers: `python -m benchmarks.scaling`.

Real runs of `distsgd train` on one node, with no, one and two workers; then benchmarks.exchange, between two raylets.
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
from pathlib import Path

import click
from rich.console import Console

from benchmarks import machine, options, report
from benchmarks.contestants import REPOSITORY
from benchmarks.cost_model import Model, Point, fit
from benchmarks.scaling_report import markdown
from benchmarks.scaling_runs import run, shapes
from benchmarks.shapes import Shape
from benchmarks.summary import milliseconds
from distsgd import numerics


def between(folder: Path, seconds: float, console: Console) -> tuple[list[Point], list[Point]]:
    """Return what exchanges take, and real runs with one worker on each of two nodes."""
    environment = os.environ | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        **numerics.environment(1, None),
    }
    command = [sys.executable, "-m", "benchmarks.exchange", str(folder), str(seconds)]
    exchanges, relayed = [], []
    with subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                point = Point(**json.loads(line))
                (exchanges if point.relays else relayed).append(point)
                console.print(line.strip(), highlight=False, soft_wrap=True)
    if process.returncode:
        raise click.ClickException(f"benchmarks.exchange ended with exit code {process.returncode}")
    return exchanges, relayed


@click.command()
@options.rounds
@options.seconds
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path(__file__).parent / "results" / "scaling.json",
    help="File for all measurements and the model.",
)
@click.option("--markdown", "page", type=click.Path(path_type=Path, exists=True), help="File with results to renew.")
def main(rounds: int, seconds: float, out: Path, page: Path | None) -> None:
    """Time short runs, fit the cost model, and show what it predicts."""
    console, loads = Console(), [machine.load_average()]
    with tempfile.TemporaryDirectory(prefix="distsgd-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        found: dict[tuple[Shape, int], list[Point]] = {}
        for number in range(rounds):
            for shape, workers in itertools.product(shapes(), (0, 1, 2)):
                point = run(shape, workers, folder, seconds)
                found.setdefault((shape, workers), []).append(point)
                took = milliseconds(1e3 * point.seconds)
                console.print(f"round {number + 1}/{rounds}  {shape}, {workers} workers: {took} ms", highlight=False)
            loads.append(machine.load_average())
        points = [sorted(runs, key=lambda point: point.seconds)[len(runs) // 2] for runs in found.values()]
        exchanges, relayed = between(folder, seconds, console)
        loads.append(machine.load_average())
    model = fit([p for p in points if p.workers], exchanges, machine.cores())
    write(out, model, {"steps": points, "exchanges": exchanges, "relayed": relayed}, loads)
    text = markdown(model, points, exchanges, relayed, machine.facts(), loads)
    console.print(text, highlight=False)
    if page is not None:
        report.replace_results(page, text)


def write(out: Path, model: Model, points: dict[str, list[Point]], loads: list[float]) -> None:
    """Write everything that was measured, and the model, as JSON."""
    out.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "machine": machine.facts(),
        "loads": loads,
        "model": dataclasses.asdict(model),
        **{name: [dataclasses.asdict(point) for point in found] for name, found in points.items()},
    }
    out.write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
