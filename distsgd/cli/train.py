"""`distsgd train`."""

from __future__ import annotations

from pathlib import Path

import click

from distsgd.cli.options import requested, run_options

EPILOG = """With no arguments it trains on the handwritten digits that scikit-learn carries, on a local Ray.

Exit codes: 0 done, 1 failed, 2 refused (input, configuration, resources), 129, 130 or 143 stopped."""


@click.command(epilog=EPILOG, short_help="Train a classifier.")
@run_options
@click.option("--resume", is_flag=True, help="Continue the run in the run directory.")
@click.option("--resume-or-start", is_flag=True, help="Continue the run in the run directory if there is one.")
@click.option("--quiet", is_flag=True, help="Print nothing but warnings and errors.")
def train(
    config: Path | None,
    assignments: tuple[str, ...],
    resume: bool,
    resume_or_start: bool,
    quiet: bool,
    **options: str | None,
) -> None:
    """Train a classifier as configured in CONFIG, a TOML file; --set overrides it, and the options override both."""
    from distsgd.cli.progress import make_observer

    asked = requested(config, assignments, options)
    with make_observer(quiet=quiet) as observer:
        observer.stage("importing what training needs")
        from distsgd.run.train import train as train_run
        from distsgd.rundir.folders import has_begun

        result = train_run(asked, resume=resume or (resume_or_start and has_begun(asked)), observer=observer)
    if not quiet:
        from distsgd.cli.summary import print_summary

        print_summary(result)
