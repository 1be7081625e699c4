"""`python -m tests.chaos`: any number of random schedules, and the tally."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tests find each other by bare names

from chaos.harness import MNIST, Report, harness
from chaos.schedule import SHAPES, draw, draw_network


def tally(reports: list[Report]) -> Table:
    """Return the table of what struck and what came of it."""
    struck = sum((report.struck for report in reports), Counter())
    failed = [str(report.schedule.seed) for report in reports if report.problems]
    table = Table("", "count", title="chaos")
    table.add_row("runs", str(len(reports)))
    for role in ("worker", "server", "aggregator", "endpoint", "driver", "network"):
        table.add_row(f"faults that struck a {role}", str(struck[role]))
    table.add_row("the undisturbed run's bits, journal and history", str(len(reports) - len(failed)))
    table.add_row("failed seeds", ", ".join(failed) or "none")
    return table


@click.command()
@click.option("--runs", default=50, show_default=True, help="Schedules to carry out.")
@click.option("--seed", default=0, show_default=True, help="Seed of the first; the others follow.")
@click.option("--data", default="digits", show_default=True, type=click.Choice(list(SHAPES)), help="What to train on.")
@click.option("--network", is_flag=True, help="On two to four nodes with addresses of their own, and links that fail.")
def main(runs: int, seed: int, data: str, network: bool) -> None:
    """Carry out random schedules of kills and stops; exit with 1 if a run did not end as the undisturbed one does."""
    console = Console(highlight=False, soft_wrap=True)
    if data == "mnist" and not MNIST.exists():
        raise click.UsageError(f"there is no {MNIST}")
    reports = []
    with harness() as chaos:
        for number in range(seed, seed + runs):
            schedule = draw_network(number) if network else draw(number, data)
            console.print(str(schedule), markup=False)
            report = chaos.carry_out(schedule)
            reports.append(report)
            fate = "failed" if report.problems else "ok"
            hits = sum(report.struck.values())
            console.print(f"  {fate}: {hits} struck, {report.drivers} drivers, {report.seconds:.0f} s", markup=False)
            if report.problems:
                console.print(
                    report.output,
                    *report.problems,
                    f"again:{' --network' if network else ''} --data {data} --seed {number} --runs 1",
                    sep="\n",
                    markup=False,
                )
    console.print(tally(reports))
    sys.exit(any(report.problems for report in reports))


if __name__ == "__main__":
    main()
