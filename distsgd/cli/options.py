"""The options that all commands which train have in common."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from distsgd.config import Config

KEYS = {
    "data": "data.train",
    "val": "data.val",
    "workers": "run.workers",
    "device": "run.device",
    "address": "run.address",
    "run_dir": "run.dir",
}
"""The configuration keys that have an option of their own, by its name."""

OPTIONS = {
    "config": click.argument("config", required=False, type=click.Path(path_type=Path)),
    "assignments": click.option(
        "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Set a key, such as optim.lr=0.1."
    ),
    "data": click.option(
        "--data", metavar="PATH", help="Training rows (data.train): Parquet, Arrow, .npz, CSV, folder, glob."
    ),
    "val": click.option("--val", metavar="PATH", help="Held-out rows (data.val)."),
    "workers": click.option(
        "--workers", metavar="N", help="Worker processes (run.workers); 0 is the serial loop without Ray."
    ),
    "device": click.option("--device", metavar="auto|cpu|cuda", help="What workers compute on (run.device)."),
    "address": click.option(
        "--address", metavar="ADDRESS", help="Ray cluster to join (run.address); without it, a local Ray."
    ),
    "run_dir": click.option("--run-dir", metavar="DIR", help="Where the run's files go (run.dir)."),
}


SWEEP_OPTIONS = {
    "grid": click.option(
        "--grid", multiple=True, metavar="KEY=V,V", help="Try these values; several grids are combined."
    ),
    "random": click.option(
        "--random", multiple=True, metavar="KEY=log:LO:HI", help="Draw values, also with uniform:LO:HI."
    ),
    "trials": click.option("--trials", type=click.IntRange(min=1), metavar="N", help="Settings to try, with --random."),
    "seeds": click.option("--seeds", type=click.IntRange(min=1), metavar="N", help="Repeat each with so many seeds."),
    "search": click.option(
        "--search", type=click.Choice(["random", "tpe"]), help="How values are drawn: random, the default; tpe learns."
    ),
    "prune": click.option(
        "--prune", is_flag=True, help="End trials that are worse than the median of the finished ones."
    ),
}


def sweep_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say what a sweep tries, which the command gets as one value, `search`."""

    @functools.wraps(command)
    def collecting(**options: Any) -> Any:
        from distsgd.sweeps.options import SearchOptions

        search = SearchOptions.parsed(**{name: options.pop(name) for name in SWEEP_OPTIONS})
        return command(**options, search=search)

    return _added(collecting, SWEEP_OPTIONS)


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command."""
    return _added(command, OPTIONS)


def job_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command that submits jobs, which join the cluster that they are submitted to."""
    return _added(command, {name: option for name, option in OPTIONS.items() if name != "address"})


def _added(command: Callable[..., Any], options: Mapping[str, Callable[..., Any]]) -> Callable[..., Any]:
    for option in reversed(list(options.values())):
        command = option(command)
    return command


def requested(config: Path | None, assignments: tuple[str, ...], options: Mapping[str, str | None]) -> Config:
    """Return what is asked for: the options override --set, and that overrides the file. ConfigError if it is wrong."""
    from distsgd.config import Config, parse_assignments, read_toml

    given = {KEYS[name]: value for name, value in options.items() if value is not None}
    return Config.build(read_toml(config) if config else {}, parse_assignments(assignments), given)
