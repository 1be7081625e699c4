"""`distsgd compare`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from distsgd.errors import counted

if TYPE_CHECKING:
    from rich.console import Console

    from distsgd.compare.comparison import Comparison

SHOWN = 20
"""Settings, and comparisons in pairs, that are printed."""

MAX_VALUES = 8
"""Values of a parameter that are printed."""

PLAIN_WIDTH = 140
"""Columns of the output if it is no terminal; a table may have more."""

GAP = 2
"""Columns between two of a table."""


@click.command(short_help="Say what differs between runs, and what it did.")
@click.argument("runs", nargs=-1, metavar="[EXPERIMENT | RUN]...")
@click.option("--uri", metavar="URI", help="MLflow store; without it, the one that runs are logged to.")
@click.option("--metric", metavar="NAME", help="Compare by this one, such as val/loss; the default is the sweep's.")
@click.option(
    "--html", "html_file", metavar="FILE", type=click.Path(path_type=Path), help="Write a page with pictures."
)
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def compare(runs: tuple[str, ...], uri: str | None, metric: str | None, html_file: Path | None, as_json: bool) -> None:
    """Compare runs: which parameters differ and which do not, and what they did.

    RUN is a run directory, a folder of them, or the ID of a run in MLflow; EXPERIMENT is the name of an experiment
    there. Without any, the runs of the experiment "distsgd" are compared. Runs that differ in their seed alone are one
    setting, with mean, spread and interval; settings are compared in pairs of equal seeds.
    """
    from distsgd.compare.comparison import compare as compare_runs
    from distsgd.compare.runs import METRICS
    from distsgd.compare.sources import find_runs
    from distsgd.errors import ConfigError, RunDirectoryError, nearest

    if metric is not None and metric not in METRICS:
        raise ConfigError(f"--metric is {metric!r}{nearest(metric, METRICS)}; expected one of {', '.join(METRICS)}")
    notes: list[str] = []
    found = compare_runs(find_runs(runs, uri, notes), notes, metric)
    if html_file is not None:
        from distsgd.compare.page import page
        from distsgd.system.files import write_atomically

        if html_file.exists() and not html_file.is_file():  # the page would take the place of a device
            raise RunDirectoryError(f"{str(html_file)!r} is there and no file; name another one")
        title = ", ".join(runs) or "the experiment distsgd"
        try:
            write_atomically(html_file, page(found, title).encode())
        except OSError as error:
            raise RunDirectoryError(
                f"{str(html_file)!r} cannot be written: {error.strerror}; name another file"
            ) from None
    if as_json:
        click.echo(json.dumps(_finite(found.to_json()), allow_nan=False))
    else:
        _print(found)
        if html_file is not None:
            click.echo(f"page: {html_file}")


def _finite(value: Any) -> Any:
    """Return content in which numbers that JSON does not have are texts."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and (value != value or abs(value) == float("inf")):
        return str(value)
    return value


def _print(found: Comparison) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PLAIN_WIDTH)
    _print_parameters(console, found)
    _print_settings(console, found)
    for one in found.contrasts[:SHOWN]:
        first, *rest = one.sentences()
        _line(console, first)
        for text in rest:
            _line(console, f"  {text}")
    if len(found.contrasts) > SHOWN:
        _line(console, f"and {len(found.contrasts) - SHOWN} more settings, in the output of --json")
    for text in found.pair.sentences() if found.pair is not None else []:
        _line(console, text)
    for text in found.notes:
        _line(console, f"note: {text}")


def _line(console: Console, text: str) -> None:
    console.print(_cell(text))


def _print_parameters(console: Console, found: Comparison) -> None:
    from rich.table import Table

    from distsgd.compare.words import value_text

    if found.differing:
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("differs", no_wrap=True)
        table.add_column("values")
        for key, values in found.differing.items():
            shown = ", ".join(value_text(key, value) for value in values[:MAX_VALUES])
            more = f" and {len(values) - MAX_VALUES} more" if len(values) > MAX_VALUES else ""
            table.add_row(_cell(key), _cell(shown + more))
        console.print(table)
    _line(console, f"the same in all runs: {len(found.same)} parameters, {', '.join(_chosen(found))}")
    console.print()


def _chosen(found: Comparison) -> list[str]:
    """Return the parameters that are the same and no defaults."""
    from distsgd.compare.words import value_text
    from distsgd.config import Config

    defaults = Config().flat()
    texts = [f"{key}={value_text(key, value)}" for key, value in found.same.items() if value != defaults.get(key)]
    return texts or ["all of them defaults"]


def _beyond(widths: Sequence[int], parameters: int, room: int) -> range:
    """Return which columns to leave out for the rest to fit: the last of the parameters, which come first."""
    first = parameters
    while first > 0 and sum(widths) - sum(widths[first:parameters]) > room:
        first -= 1
    return range(first, parameters)


def _print_settings(console: Console, found: Comparison) -> None:
    from rich.console import Console
    from rich.table import Table

    from distsgd.compare.words import bars, columns, row

    settings = found.settings[:SHOWN]
    lines = [[*columns(found), "loss"], *([*row(found, setting), bars(setting)] for setting in settings)]
    widths = [max(map(len, cells)) + GAP for cells in zip(*lines, strict=True)]
    parameters = len(settings[0].values) if settings else 0
    if console.is_terminal:
        left_out = _beyond(widths, parameters, console.width + GAP)
    else:
        console, left_out = Console(highlight=False, width=max(PLAIN_WIDTH, sum(widths))), range(0)
    _line(console, f"sorted by {found.metric} of the weights that each run keeps; --metric NAME changes that")
    table = Table(box=None, pad_edge=False, header_style="bold")
    kept = [place for place in range(len(widths)) if place not in left_out]
    for place in kept:
        table.add_column(_cell(lines[0][place]), justify="right" if place < len(widths) - 1 else "left", no_wrap=True)
    for cells in lines[1:]:
        table.add_row(*(_cell(cells[place]) for place in kept))
    console.print(table)
    if left_out:
        _line(console, f"for lack of room without {', '.join(lines[0][place] for place in left_out)}")
    if len(found.settings) > SHOWN:
        _line(console, f"and {counted(len(found.settings) - SHOWN, 'setting')} more, with worse means")
    console.print()


def _cell(text: str) -> Any:
    from rich.text import Text

    from distsgd.errors import printable

    return Text(printable(text))  # whoever can write to the MLflow store chooses names and parameters
