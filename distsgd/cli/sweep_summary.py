"""What is printed when a sweep has ended: the settings in order, and the command of the best trial."""

from __future__ import annotations

import click

from distsgd.cli.lines import measured
from distsgd.cli.sweep_progress import in_words
from distsgd.errors import counted
from distsgd.sweeps.result import SweepResult

SHOWN = 10
"""Settings that are listed."""


def print_sweep_summary(found: SweepResult) -> None:
    """Print it to standard output."""
    metric, settings = found.metric, found.settings
    for place, setting in enumerate(settings[:SHOWN], 1):
        mean, spread = setting.mean(metric), setting.spread(metric)
        assert mean is not None
        around = "" if spread is None else f" ± {measured(spread)} ({counted(len(setting.values(metric)), 'seed')})"
        numbers = ", ".join(str(trial.number) for trial in setting.trials)
        missing = "" if setting.is_complete else "  not all seeds have finished"
        click.echo(
            f"{place:>2}.  {metric.key} {measured(mean)}{around}  {in_words(setting.parameters)}  "
            f"(trial{'s' * (len(setting.trials) > 1)} {numbers}){missing}"
        )
    if len(settings) > SHOWN:
        click.echo(f"     and {len(settings) - SHOWN} more, in {found.path / 'sweep.json'}")
    click.echo(f"best  trial {found.best.number}: {in_words(found.best.parameters)}, in {found.best.run_dir}")
    click.echo(f"again {found.command}")
