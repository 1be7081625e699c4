"""`distsgd look`, which `distsgd submit` runs on the cluster."""

from __future__ import annotations

import json

import click


@click.command(hidden=True)
@click.argument("command", type=click.Choice(["train", "sweep"]))
@click.argument("values")
def look(command: str, values: str) -> None:
    """Check that a run, or a sweep, with the configuration VALUES, as JSON, can be started here."""
    from distsgd.config import Config
    from distsgd.rundir.folders import has_begun
    from distsgd.submission.look import look as look_at
    from distsgd.submission.ray_job import LOOK
    from distsgd.sweeps.store import FILE

    config = Config.build(json.loads(values))
    for line in look_at(config, sweep_begun=has_begun(config, FILE) if command == "sweep" else None):
        click.echo(f"{LOOK}{line}")
