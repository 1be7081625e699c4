"""`distsgd sync`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(short_help="Send to MLflow what it is missing of a run.")
@click.argument("run_dir", type=click.Path(path_type=Path))
@click.option("--uri", metavar="URI", help="MLflow store; without it, the one that the run was started with.")
def sync(run_dir: Path, uri: str | None) -> None:
    """Send to MLflow what it is missing of the run in RUN_DIR; nothing is sent twice."""
    from distsgd.tracking.sync import sync as sync_run

    synced = sync_run(run_dir, uri)
    click.echo(f"MLflow run {synced.run_id} has all {synced.lines} lines of the journal, status {synced.status}")
    click.echo(f"view: {synced.view}")
    if synced.notice is not None:
        click.echo(f"warning: {synced.notice}", err=True)
