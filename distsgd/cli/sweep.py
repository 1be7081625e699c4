"""`distsgd sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from distsgd.cli.options import requested, run_options, sweep_options

if TYPE_CHECKING:
    from distsgd.sweeps.options import SearchOptions

EPILOG = """Trials are run directories below that of the sweep; sweep.json lists them.

Exit codes: 0 done, 1 all trials failed, 2 refused, 129, 130 or 143 stopped: the same command with --resume goes on."""


@click.command(epilog=EPILOG, short_help="Train with many settings, and compare them.")
@run_options
@sweep_options
@click.option("--resume", is_flag=True, help="Continue the sweep in the run directory.")
@click.option("--resume-or-start", is_flag=True, help="Continue the sweep in the run directory if there is one.")
@click.option("--quiet", is_flag=True, help="Print nothing but warnings, errors and the best setting.")
def sweep(
    config: Path | None,
    assignments: tuple[str, ...],
    search: SearchOptions,
    resume: bool,
    resume_or_start: bool,
    quiet: bool,
    **options: str | None,
) -> None:
    """Train as configured in CONFIG once for each setting of --grid and --random, as many at a time as fit.

    \b
      distsgd sweep --grid optim.lr=0.01,0.1,1
      distsgd sweep --random optim.lr=log:0.001:1 --trials 20 --seeds 3
    """  # noqa: D301 - click keeps the lines of a paragraph that begins with this character
    from distsgd.cli.sweep_progress import make_sweep_observer

    asked = requested(config, assignments, options)
    with make_sweep_observer(quiet=quiet) as observer:
        observer.stage("importing what training needs")
        from distsgd.rundir.folders import has_begun
        from distsgd.sweeps.store import FILE
        from distsgd.sweeps.sweep import sweep as run_sweep

        found = run_sweep(
            asked,
            search,
            resume=resume or (resume_or_start and has_begun(asked, FILE)),
            observer=observer,
        )
    from distsgd.cli.sweep_summary import print_sweep_summary

    print_sweep_summary(found)
