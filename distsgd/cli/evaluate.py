"""`distsgd evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from distsgd.run.evaluation import Evaluation

SHOWN = 20
"""Classes in the printed table; of more classes, those of lowest recall."""

MAX_NAME = 20
"""Characters of a class's name."""


@click.command(short_help="Measure the model on other rows.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--data", required=True, metavar="PATH", help="Labelled rows: Parquet, Arrow, .npz, CSV, folder, glob.")
@click.option(
    "--out", metavar="DIR", type=click.Path(path_type=Path), help="Where files go; without it, RUN/evaluation."
)
@click.option("--json", "as_json", is_flag=True, help="Print the metrics as JSON.")
@click.option("--log", is_flag=True, help="Put metrics, tables and pictures into the run in MLflow.")
def evaluate(run: Path, data: str, out: Path | None, as_json: bool, log: bool) -> None:
    """Measure the model in the run directory RUN on the rows of --data.

    Prints accuracy, log loss, ROC-AUC, calibration and a table of classes, and writes them, with pictures of the
    confusion matrix, the calibration and, of models for images, the first layer's weights.
    """
    from distsgd.cli.progress import make_observer

    with make_observer(quiet=as_json) as observer:
        from distsgd.run.evaluation import evaluate as evaluate_run

        found = evaluate_run(run, data, out=out, log=log, observer=observer)
    if as_json:
        click.echo(json.dumps(found.metrics, allow_nan=False))
    else:
        for line in lines(found):
            click.echo(line)


def lines(found: Evaluation) -> list[str]:
    """Return the metrics, the table of classes, and where the files are."""
    from distsgd.run.evaluation import numbers, table_name

    values = [("rows", f"{found.metrics['rows']:,}")]
    values += [(name, f"{value:.4f}") for name, value in numbers(found.metrics).items()]
    values.append(("files", str(found.folder)))
    if found.view is not None:
        values += [("MLflow run", str(found.mlflow_run)), ("view", found.view)]
    return [f"{name:<17}  {value}" for name, value in values] + ["", *table(found.metrics[table_name(found.metrics)])]


def table(rows_by_name: dict[str, dict[str, Any]]) -> list[str]:
    """Return the lines of the table of classes, labels or numbers; of many, only those of lowest recall, or R²."""
    shown = list(rows_by_name.items())
    columns = list(shown[0][1])
    if len(shown) > SHOWN:
        key = "recall" if "recall" in columns else "r2"
        shown = sorted((pair for pair in shown if pair[1][key] is not None), key=lambda pair: pair[1][key])[:SHOWN]
    names = [name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…" for name, _ in shown]
    width = max(map(len, ["class", *names]))
    rows = [f"{'class':<{width}}  " + "  ".join(f"{column:>9}" for column in columns)]
    for name, (_, values) in zip(names, shown, strict=True):
        rows.append(f"{name:<{width}}  " + "  ".join(f"{_cell(values[column]):>9}" for column in columns))
    hidden = len(rows_by_name) - len(shown)
    return rows + ([f"... and {hidden:,} more in the CSV file"] if hidden else [])


def _cell(value: float | int | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
