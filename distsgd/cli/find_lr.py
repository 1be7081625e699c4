"""`distsgd find-lr`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from distsgd.cli.options import requested, run_options


@click.command(short_help="Find a learning rate by a range test.")
@run_options
@click.option("--from", "low", type=float, default=1e-5, show_default=True, help="Learning rate of the first step.")
@click.option("--to", "high", type=float, default=10.0, show_default=True, help="Learning rate of the last step.")
@click.option("--steps", type=int, default=200, show_default=True, help="Steps, if the loss does not diverge before.")
@click.option("--quiet", is_flag=True, help="Print nothing but warnings, errors and what was found.")
def find_lr(
    config: Path | None,
    assignments: tuple[str, ...],
    low: float,
    high: float,
    steps: int,
    quiet: bool,
    **options: str | None,
) -> None:
    """Train as configured in CONFIG for a few steps with a rising learning rate, and suggest one for training.

    The rate rises by the same factor in each step until the loss diverges (Smith 2017). Loss against learning rate is
    a picture in the run directory.
    """
    from distsgd.cli.progress import make_observer

    asked = requested(config, assignments, options)
    with make_observer(quiet=quiet) as observer:
        observer.stage("importing what training needs")
        from distsgd.run.find_lr import find_lr as find

        found = find(asked, low=low, high=high, steps=steps, observer=observer)
    curve, picture = found.curve, found.picture
    end = f"{curve.rates[-1]:.2g}" if curve.diverged_at is None else f"{curve.diverged_at:.2g}"
    diverged = f"not up to {end}" if curve.diverged_at is None else f"at {end}"
    shown = os.path.relpath(picture) if picture.is_relative_to(Path.cwd()) else str(picture)
    for name, value in (
        ("steps", f"{len(curve.rates)}"),
        ("steepest fall", f"at {curve.steepest_at:.2g}"),
        ("lowest loss", f"{min(curve.smoothed):.4f} at {curve.lowest_at:.2g}"),
        ("diverged", diverged),
        ("suggestion", f"{curve.suggestion:g}, a tenth of the rate with the lowest smoothed loss"),
        ("use it", f"--set optim.lr={curve.suggestion:g}"),
        ("picture", shown),
        ("MLflow run", found.result.mlflow_run_id),
    ):
        if value is not None:
            click.echo(f"{name:<14}  {value}")
