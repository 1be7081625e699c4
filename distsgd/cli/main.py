"""The command line: options to configuration, errors to exit codes. With display.py the only place that prints."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path
from typing import Any

import click

from distsgd.errors import DistsgdError
from distsgd.system.signals import stopped_outside_training
from distsgd.version import __version__

EPILOG = """With no arguments it trains on the handwritten digits that scikit-learn carries, on a local Ray.

Exit codes: 0 done, 1 failed, 2 refused (input, configuration, resources), 129, 130 or 143 stopped."""


class DistsgdGroup(click.Group):
    """Turns the errors that distsgd raises on purpose into one message and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except (DistsgdError, KeyboardInterrupt) as error:
            ending = error if isinstance(error, DistsgdError) else stopped_outside_training("Ctrl-C", signal.SIGINT)
            with contextlib.suppress(OSError):  # the terminal may be what was closed
                click.echo(f"distsgd: {ending}", err=True)
            ctx.exit(ending.exit_code)


@click.group(cls=DistsgdGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="distsgd")
def main() -> None:
    """Distributed mini-batch SGD for two-layer classifiers, with one answer to the last bit."""


@main.command(epilog=EPILOG)
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Set a key, such as optim.lr=0.1.")
@click.option("--data", metavar="PATH", help="Training rows (data.train): Parquet, Arrow, .npz, CSV, folder, glob.")
@click.option("--val", metavar="PATH", help="Held-out rows (data.val).")
@click.option("--workers", metavar="N", help="Worker processes (run.workers); 0 is the serial loop without Ray.")
@click.option("--device", metavar="auto|cpu|cuda", help="What workers compute on (run.device).")
@click.option("--address", metavar="ADDRESS", help="Ray cluster to join (run.address); without it, a local Ray.")
@click.option("--run-dir", metavar="DIR", help="Where the run's files go (run.dir).")
@click.option("--resume", is_flag=True, help="Go on with the run in the run directory.")
@click.option("--quiet", is_flag=True, help="Print nothing but warnings and errors.")
def train(config: Path | None, assignments: tuple[str, ...], resume: bool, quiet: bool, **options: str | None) -> None:
    """Train a classifier as CONFIG, a TOML file, says; options and --set go before what is in it."""
    from distsgd.cli.display import make_observer, print_ending
    from distsgd.config import Config, parse_assignments, read_toml
    from distsgd.run.train import train as train_run

    keys = {
        "data": "data.train",
        "val": "data.val",
        "workers": "run.workers",
        "device": "run.device",
        "address": "run.address",
        "run_dir": "run.dir",
    }
    given = {keys[name]: value for name, value in options.items() if value is not None}
    layers = [read_toml(config) if config else {}, parse_assignments(assignments), given]
    with make_observer(quiet=quiet) as observer:
        result = train_run(Config.build(*layers), resume=resume, observer=observer)
    if not quiet:
        print_ending(result)


@main.command()
@click.argument("run_dir", type=click.Path(path_type=Path))
@click.option("--uri", metavar="URI", help="MLflow store; without it, the one that the run was to be told to.")
def sync(run_dir: Path, uri: str | None) -> None:
    """Tell MLflow what it does not have yet of the run in RUN_DIR; nothing is sent twice."""
    from distsgd.tracking.sync import sync as sync_run

    synced = sync_run(run_dir, uri)
    click.echo(f"MLflow run {synced.run_id} has all {synced.lines} lines of the journal, status {synced.status}")
    click.echo(f"look at it: {synced.look}")
