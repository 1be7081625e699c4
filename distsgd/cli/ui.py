"""`distsgd ui`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(short_help="Open MLflow on the right store.")
@click.argument("run_dir", required=False, type=click.Path(path_type=Path))
@click.option("--port", type=click.IntRange(1, 65535), help="Port on this machine; without it, 5000 or a free one.")
@click.option("--experiment", default="distsgd", show_default=True, help="Experiment whose runs are shown.")
def ui(run_dir: Path | None, port: int | None, experiment: str) -> None:
    """Start MLflow on the store of the run in RUN_DIR, and print the link to that run; Ctrl-C ends it.

    Without RUN_DIR, the link leads to the table of runs in the store that runs are logged to: MLFLOW_TRACKING_URI, or
    else mlflow.db in the current folder. A store that is a server already is only linked to.
    """
    from distsgd.errors import Stopped
    from distsgd.system.signals import stop_signals_raise
    from distsgd.tracking import ui as pages

    uri, run = pages.store_of(run_dir)
    if uri.startswith("http"):
        click.echo(pages.link(uri, run, experiment, pages.link_uri(uri, run)))
        return
    try:
        with stop_signals_raise(), pages.server(uri, port) as (address, process):
            click.echo(pages.link(address, run, experiment))
            click.echo("MLflow runs until Ctrl-C", err=True)
            process.wait()
    except (KeyboardInterrupt, Stopped):
        click.echo("MLflow has ended", err=True)
