"""`distsgd train`."""

from __future__ import annotations

from pathlib import Path

import click

EPILOG = """With no arguments it trains on the handwritten digits that scikit-learn carries, on a local Ray.

Exit codes: 0 done, 1 failed, 2 refused (input, configuration, resources), 129, 130 or 143 stopped."""

KEYS = {
    "data": "data.train",
    "val": "data.val",
    "workers": "run.workers",
    "device": "run.device",
    "address": "run.address",
    "run_dir": "run.dir",
}
"""The configuration keys that have an option of their own, by its name."""


@click.command(epilog=EPILOG, short_help="Train a classifier.")
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Set a key, such as optim.lr=0.1.")
@click.option("--data", metavar="PATH", help="Training rows (data.train): Parquet, Arrow, .npz, CSV, folder, glob.")
@click.option("--val", metavar="PATH", help="Held-out rows (data.val).")
@click.option("--workers", metavar="N", help="Worker processes (run.workers); 0 is the serial loop without Ray.")
@click.option("--device", metavar="auto|cpu|cuda", help="What workers compute on (run.device).")
@click.option("--address", metavar="ADDRESS", help="Ray cluster to join (run.address); without it, a local Ray.")
@click.option("--run-dir", metavar="DIR", help="Where the run's files go (run.dir).")
@click.option("--resume", is_flag=True, help="Continue the run in the run directory.")
@click.option("--quiet", is_flag=True, help="Print nothing but warnings and errors.")
def train(config: Path | None, assignments: tuple[str, ...], resume: bool, quiet: bool, **options: str | None) -> None:
    """Train a classifier as configured in CONFIG, a TOML file; --set overrides it, and the options override both."""
    from distsgd.cli.progress import make_observer
    from distsgd.config import Config, parse_assignments, read_toml

    given = {KEYS[name]: value for name, value in options.items() if value is not None}
    layers = [read_toml(config) if config else {}, parse_assignments(assignments), given]
    requested = Config.build(*layers)
    with make_observer(quiet=quiet) as observer:
        observer.stage("importing what training needs")
        from distsgd.run.train import train as train_run

        result = train_run(requested, resume=resume, observer=observer)
    if not quiet:
        from distsgd.cli.summary import print_summary

        print_summary(result)
