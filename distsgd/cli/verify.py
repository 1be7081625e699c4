"""`distsgd verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

DIFFERS = 1

EPILOG = """Exit codes: 0 verified, 1 something differs and is named, 2 cannot be verified (and why)."""


@click.command(epilog=EPILOG, short_help="Train a run again and compare the bits.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--segments",
    type=click.IntRange(min=0),
    metavar="N",
    help="Train only N parts of the run again, each from a checkpoint to the next recorded state; 0: check only files.",
)
@click.option("--data", metavar="PATH", help="Where the training rows are now, if they were moved.")
@click.option("--val", metavar="PATH", help="Where the held-out rows are now.")
@click.option("--workers", metavar="N", help="Worker processes on Ray, any number; without it, this process alone.")
@click.option("--address", metavar="ADDRESS", help="Ray cluster to train on.")
def verify(run: Path, segments: int | None, **options: str | None) -> None:
    """Train the run in the directory RUN again, and say whether the bits are those that were recorded.

    Configuration, rows, journal, checkpoints, model and result are compared with what training comes to, and what has
    changed is named. Any machine and any number of workers will do; where its arithmetic has other last bits than
    that of the run, this is said, and numbers are compared within a tolerance.
    """
    from distsgd.cli.progress import make_observer

    keys = {"data": "data.train", "val": "data.val", "workers": "run.workers", "address": "run.address"}
    overrides: dict[str, Any] = {keys[name]: value for name, value in options.items() if value is not None}
    if "run.address" in overrides and "run.workers" not in overrides:
        overrides["run.workers"] = "auto"
    with make_observer(quiet=False) as observer:
        observer.stage("importing what training needs")
        from distsgd.verify.verification import verify as verify_run

        report = verify_run(run, segments=segments, overrides=overrides, observer=observer)
    for line in report.lines():
        click.echo(line)
    if not report.is_verified:
        raise click.exceptions.Exit(DIFFERS)
