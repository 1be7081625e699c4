"""The summary table that is printed when a run has finished."""

from __future__ import annotations

import os
from pathlib import Path

import click

from distsgd.rundir.result import Result
from distsgd.tracking import run_id
from distsgd.tracking.uri import view_command


def summary(result: Result) -> list[tuple[str, str]]:
    """Return names and values; values that were not measured are omitted."""
    path = result.run_dir
    stored = run_id.read(path) if result.mlflow_run_id else None
    lines: list[tuple[str, str | None]] = [
        ("status", result.status),
        ("trained", f"{result.steps:,} steps, {result.epochs:g} epochs, in {result.wall_s:.1f} s"),
        ("train loss", _number("{:.4f}", result.train_loss)),
        ("val loss", _number("{:.4f}", result.val_loss)),
        ("val accuracy", _number("{:.4f}", result.val_accuracy)),
        ("samples/s", _number("{:,.0f}", result.samples_per_s)),
        ("model", os.path.relpath(path / "model.npz") if path.is_relative_to(Path.cwd()) else str(path / "model.npz")),
        ("MLflow run", result.mlflow_run_id),
        ("view", view_command(stored.uri, stored.experiment_id, stored.run_id) if stored else None),
    ]
    return [(name, value) for name, value in lines if value is not None]


def print_summary(result: Result) -> None:
    """Print the table to standard output."""
    for name, value in summary(result):
        click.echo(f"{name:<12}  {value}")


def _number(form: str, value: float | None) -> str | None:
    return None if value is None else form.format(value)
