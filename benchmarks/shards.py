"""The cost of a fixed `num_shards` compared with one shard per worker: `python -m benchmarks.shards`."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from benchmarks import machine, options
from benchmarks.compare import alternate, rows_of
from benchmarks.contestants import DEFAULT_SHARDS, OURS, Settings
from benchmarks.shapes import Shape, StoredType
from benchmarks.summary import milliseconds


@click.command()
@click.option(
    "--shards",
    multiple=True,
    type=int,
    default=(DEFAULT_SHARDS, 2 * DEFAULT_SHARDS),
    show_default=True,
    help="Number of shards to compare with one per worker; may be repeated.",
)
@options.shapes
@options.stored
@options.workers
@options.rounds
@options.seconds
def main(
    shards: tuple[int, ...],
    shapes: tuple[Shape, ...],
    stored: StoredType,
    workers: int,
    rounds: int,
    seconds: float,
) -> None:
    """Time runs of distsgd with different numbers of shards, in alternation."""
    console = Console()
    counts = [count for count in shards if count > workers]
    contestants = [OURS] + [dataclasses.replace(OURS, name=f"{count} shards", num_shards=count) for count in counts]
    settings = Settings(workers=workers, threads=machine.cores(), seconds=seconds)
    with tempfile.TemporaryDirectory(prefix="distsgd-bench-") as data:
        measurements, _ = alternate(
            contestants, shapes, stored=stored, rounds=rounds, settings=settings, data=Path(data), console=console
        )
    table = Table(title=f"Milliseconds a step, medians of {rounds} rounds, {workers} workers")
    table.add_column("net@batch")
    table.add_column(f"{workers} shards", justify="right")
    for count in counts:
        table.add_column(f"{count} shards", justify="right")
    for shape, rows in rows_of(measurements).items():
        cells = {
            row.contestant: milliseconds(row.median_ms)
            + (f"  {100 * (row.ratio - 1):+.0f} %" if row.ratio is not None and row.contestant != OURS.name else "")
            for row in rows
        }
        table.add_row(str(shape), *(cells.get(contestant.name, "-") for contestant in contestants))
    console.print(table)


if __name__ == "__main__":
    main()
