"""What a step costs with `train.arithmetic=portable`, compared with `fast`: `python -m benchmarks.arithmetic`."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from benchmarks import machine, options
from benchmarks.compare import alternate, rows_of
from benchmarks.contestants import OURS, OURS_DEFAULT, OURS_PORTABLE, Settings
from benchmarks.shapes import Shape, StoredType
from benchmarks.summary import milliseconds


@click.command()
@options.shapes
@options.stored
@options.workers
@options.rounds
@options.seconds
def main(shapes: tuple[Shape, ...], stored: StoredType, workers: int, rounds: int, seconds: float) -> None:
    """Time runs on Ray with both arithmetics, in alternation."""
    console, contestants = Console(), (OURS, OURS_DEFAULT, OURS_PORTABLE)
    settings = Settings(workers=workers, threads=machine.cores(), seconds=seconds)
    with tempfile.TemporaryDirectory(prefix="distsgd-bench-") as data:
        measurements, loads = alternate(
            contestants, shapes, stored=stored, rounds=rounds, settings=settings, data=Path(data), console=console
        )
    load = max(entry["load_average"] for entry in loads)
    table = Table(title=f"Milliseconds a step, medians of {rounds} rounds, {workers} workers, {stored}; load ≤ {load}")
    for heading in ("net@batch", *(contestant.label for contestant in contestants), "portable / fast"):
        table.add_column(heading, justify="right")
    for shape, rows in rows_of(measurements).items():
        by_name = {row.contestant: row for row in rows}
        cells = [milliseconds(by_name[c.name].median_ms) if c.name in by_name else "-" for c in contestants]
        ratio = by_name[OURS_PORTABLE.name].ratio if OURS_PORTABLE.name in by_name else None
        table.add_row(str(shape), *cells, "-" if ratio is None else f"{ratio:.2f}")
    console.print(table)


if __name__ == "__main__":
    main()
