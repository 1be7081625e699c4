"""Time the steps of all contestants in alternation and compare them: `python -m benchmarks.compare`."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from benchmarks import machine, options, picture, report, summary
from benchmarks.contestants import CONTESTANTS, REPOSITORY, Contestant, ContestantError, Settings, measure
from benchmarks.shapes import Shape, StoredType, make_data

Measurements = dict[Shape, dict[str, list[dict[str, Any]]]]
"""For each shape and contestant, what it printed in each round."""


def alternate(
    contestants: Sequence[Contestant],
    shapes: Sequence[Shape],
    *,
    stored: StoredType,
    rounds: int,
    settings: Settings,
    data: Path,
    console: Console,
) -> tuple[Measurements, list[dict[str, Any]]]:
    """Measure every contestant once per round; return the measurements and each round's load average.

    A contestant that fails is reported and skipped for the rest of that shape; the others' results are kept.
    """
    by_name = {contestant.name: contestant for contestant in contestants}
    measurements: Measurements = {shape: {name: [] for name in by_name} for shape in shapes}
    failed: set[tuple[Shape, str]] = set()
    loads = []
    for shape in shapes:
        folder = make_data(shape, stored, data)
        for number in range(rounds):
            loads.append({"shape": str(shape), "round": number + 1, "load_average": machine.load_average()})
            for name in summary.rotated(list(by_name), number):
                if (shape, name) in failed:
                    continue
                try:
                    found = measure(by_name[name], shape, folder, settings)
                except ContestantError as error:
                    failed.add((shape, name))
                    console.print(f"[red]left out:[/red] {error}", highlight=False)
                    continue
                measurements[shape][name].append(found)
                time_ms = summary.milliseconds(found["step_ms_p50"])
                console.print(f"{shape}  round {number + 1}/{rounds}  {name:16} {time_ms} ms", highlight=False)
    return measurements, loads


def rows_of(measurements: Measurements) -> dict[Shape, list[summary.Row]]:
    """Return the rows of the table for every shape."""
    return {
        shape: summary.rows(shape, {name: [m["step_ms_p50"] for m in found] for name, found in by_name.items()})
        for shape, by_name in measurements.items()
    }


def as_json(measurements: Measurements, rows: report.Results, about: dict[str, Any]) -> dict[str, Any]:
    """Return the content of compare.json."""
    return about | {
        "shapes": [
            {
                "shape": str(shape),
                "rows": shape.rows,
                "parameters": shape.parameters,
                "summary": [asdict(row) | {"met": row.met} for row in rows[shape]],
                "measurements": by_name,
            }
            for shape, by_name in measurements.items()
        ]
    }


def present(names: Sequence[str], console: Console) -> list[Contestant]:
    """Return the contestants of these names that can run here, and report those that cannot."""
    found = []
    for contestant in CONTESTANTS:
        if names and contestant.name not in names:
            continue
        problem = contestant.missing()
        if problem is None:
            found.append(contestant)
        else:
            console.print(f"[yellow]{contestant.label} is left out: {problem}[/yellow]", highlight=False)
    return found


@click.command()
@options.shapes
@options.stored
@options.workers
@options.rounds
@options.seconds
@click.option(
    "--only", multiple=True, type=click.Choice([c.name for c in CONTESTANTS]), help="Only this one; may be repeated."
)
@click.option(
    "--out", type=click.Path(path_type=Path), default=REPOSITORY / "benchmarks" / "results", help="Folder for results."
)
@click.option("--markdown", type=click.Path(path_type=Path, exists=True), help="File whose results section to update.")
def main(
    shapes: tuple[Shape, ...],
    stored: StoredType,
    workers: int,
    rounds: int,
    seconds: float,
    only: tuple[str, ...],
    out: Path,
    markdown: Path | None,
) -> None:
    """Time distsgd and its peers on the same rows, nets and mini-batches, in alternation."""
    console = Console()
    settings = Settings(workers=workers, threads=machine.cores(), seconds=seconds)
    about: dict[str, Any] = {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": machine.facts(),
        "settings": asdict(settings) | {"rounds": rounds, "stored": stored},
    }
    contestants = present(only, console)
    with tempfile.TemporaryDirectory(prefix="distsgd-bench-") as data:
        measurements, loads = alternate(
            contestants, shapes, stored=stored, rounds=rounds, settings=settings, data=Path(data), console=console
        )
    results = rows_of(measurements)
    out.mkdir(parents=True, exist_ok=True)
    (out / "compare.json").write_text(json.dumps(as_json(measurements, results, about | {"loads": loads}), indent=1))
    picture.draw(results, out / "compare.png")
    console.print(report.table(results))
    console.print(f"written: {out / 'compare.json'}, {out / 'compare.png'}", highlight=False)
    if markdown is not None:
        busiest = max(entry["load_average"] for entry in loads)
        conditions = (
            f"{workers} workers, {rounds} rounds of {seconds:g} s, features stored as {stored}, "
            f"load average before a round at most {busiest:.1f}; {about['started'][:10]}."
        )
        report.replace_results(markdown, report.markdown(results, about["machine"], conditions))


if __name__ == "__main__":
    main()
