"""Whole fits of distsgd beside scikit-learn, PyTorch, LightGBM and XGBoost: `python -m benchmarks.comparison`.

On MNIST (with `--mnist`) and on a table of flights, each contestant fits in a process of its own, with threads on all
cores: accuracy and log loss of the test rows, seconds of the fit, peak memory of the process. Contestants alternate;
one whose first fit took more than 30 s is not repeated.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from benchmarks import machine, report, summary
from benchmarks.contestants import REPOSITORY
from benchmarks.tables import Divided, flights, images
from distsgd.core.numerics import THREAD_VARIABLES

SECTION = "comparison"

LABELS = {
    "distsgd": "distsgd, `DistSGDClassifier`",
    "sklearn": "scikit-learn, `MLPClassifier`",
    "torch": "PyTorch, one process",
    "lightgbm": "LightGBM",
    "xgboost": "XGBoost",
}
"""The contestants of benchmarks/peers/fits.py, and the modules that they need."""

COLUMNS = ("contestant", "accuracy", "log loss", "seconds", "peak memory, MiB", "before the fit")

LONG_S = 30.0
LIMIT_S = 900.0


@dataclass(frozen=True, kw_only=True)
class Case:
    """A data set and the net that is fitted to it."""

    name: str
    rows: Divided
    hidden: int
    epochs: int

    @property
    def title(self) -> str:
        """What is fitted to what, in words."""
        D, C = self.rows.train_nets.shape[1], int(self.rows.train_y.max()) + 1
        parts = f"{len(self.rows.train_y):,} training and {len(self.rows.test_y):,} test rows"
        return f"{self.name}, {parts}; nets {D}-{self.hidden}-{C}, {self.epochs} epochs"


def measure(case: Case, contestants: Sequence[str], rounds: int, console: Console) -> dict[str, list[dict[str, Any]]]:
    """Return the measurements of each contestant."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in contestants}
    with tempfile.TemporaryDirectory(prefix="distsgd-bench-") as folder:
        case.rows.save(Path(folder))
        for number in range(rounds):
            for name in summary.rotated(contestants, number):
                if found[name] and found[name][0]["seconds"] > LONG_S:
                    continue
                found[name].append(fit(case, name, Path(folder)))
                console.print(
                    f"{case.name}  round {number + 1}/{rounds}  {name:8}  {found[name][-1]}",
                    highlight=False,
                    soft_wrap=True,
                )
    return found


def fit(case: Case, contestant: str, folder: Path) -> dict[str, Any]:
    """Run a contestant in a process of its own and return what it printed; CalledProcessError if it fails."""
    threads = str(machine.cores())
    arguments = {
        "contestant": contestant,
        "data": folder,
        "threads": threads,
        "hidden": case.hidden,
        "epochs": case.epochs,
    }
    options = [text for name, value in arguments.items() for text in (f"--{name}", str(value))]
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.peers.fits", *options],
        cwd=REPOSITORY, env=os.environ | dict.fromkeys(THREAD_VARIABLES, threads), stdout=subprocess.PIPE,
        text=True, timeout=LIMIT_S, check=True,
    )  # fmt: skip
    measured: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return measured


def rows_of(found: Mapping[str, Sequence[Mapping[str, float]]]) -> list[tuple[str, ...]]:
    """Return the rows of the table: medians of the rounds."""
    rows = []
    for name, measurements in found.items():
        middle = {key: statistics.median(m[key] for m in measurements) for key in measurements[0]}
        texts = (f"{middle['accuracy']:.4f}", f"{middle['log_loss']:.4f}", f"{middle['seconds']:.3g}")
        rows.append((LABELS[name], *texts, f"{middle['peak_mib']:.0f}", f"{middle['before_mib']:.0f}"))
    return rows


def markdown(tables: Mapping[str, Sequence[tuple[str, ...]]], facts: Mapping[str, Any], conditions: str) -> str:
    """Return a table for each data set, below a line with the machine and the conditions."""
    lines = [f"{machine.in_words(facts)} {conditions}"]
    for title, rows in tables.items():
        lines += ["", f"**{title}:**", "", "| " + " | ".join(COLUMNS) + " |", "|---|" + "--:|" * (len(COLUMNS) - 1)]
        lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


@click.command(help=__doc__)
@click.option("--mnist", type=click.Path(path_type=Path, exists=True), help="Folder with train.parquet, test.parquet.")
@click.option("--rounds", default=3, show_default=True, help="Fits of each contestant.")
@click.option("--only", multiple=True, type=click.Choice(list(LABELS)), help="Only this one; may be repeated.")
@click.option("--markdown", "page", type=click.Path(path_type=Path, exists=True), help="Page whose section to update.")
def main(mnist: Path | None, rounds: int, only: tuple[str, ...], page: Path | None) -> None:
    """Measure and print the tables."""
    console, load = Console(), machine.load_average()
    contestants = [name for name in LABELS if not only or name in only]
    for name in [name for name in contestants if importlib.util.find_spec(name) is None]:
        console.print(f"[yellow]{LABELS[name]} is left out: pip install '.[bench]'[/yellow]")
        contestants.remove(name)
    cases = [Case(name="Flights", rows=flights(), hidden=128, epochs=5)]
    if mnist is not None:
        cases.insert(0, Case(name="MNIST", rows=images(mnist), hidden=256, epochs=10))
    tables = {}
    for case in cases:
        tables[case.title] = rows_of(measure(case, contestants, rounds, console))
        table = Table(*COLUMNS, title=case.title)
        for row in tables[case.title]:
            table.add_row(*row)
        console.print(table)
    if page is not None:
        conditions = f"Medians of up to {rounds} rounds; load average before {load:.1f}; {time.strftime('%Y-%m-%d')}."
        report.replace_results(page, markdown(tables, machine.facts(), conditions), SECTION)


if __name__ == "__main__":
    main()
