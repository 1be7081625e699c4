"""`distsgd predict`."""

from __future__ import annotations

from pathlib import Path

import click

from distsgd.errors import counted


@click.command(short_help="Predict the classes of rows in a file.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--data", required=True, metavar="PATH", help="The rows: Parquet, Arrow, .npz, CSV, folder, glob.")
@click.option(
    "--out", required=True, metavar="FILE", type=click.Path(path_type=Path), help=".parquet or .csv file to write."
)
@click.option("--keep", metavar="COLUMN,...", help="Columns of the rows that are carried along, such as id.")
@click.option("--workers", metavar="N", type=click.IntRange(min=1), help="Predict by N tasks at once, on Ray.")
@click.option("--address", metavar="ADDRESS", help="Ray cluster to join; without --workers, all of its CPUs are used.")
@click.option("--quiet", is_flag=True, help="Print nothing but warnings and errors.")
def predict(
    run: Path, data: str, out: Path, keep: str | None, workers: int | None, address: str | None, quiet: bool
) -> None:
    """Write the predictions of the model in the run directory RUN for all rows of --data, in their order.

    The columns of the file are those that are kept, then `prediction`, the most probable class, and `probabilities`, a
    list in the order of the model's classes; in CSV there is a column for each class, such as `probabilities[a]`. The
    rows need no labels and may be larger than memory. If it is stopped or killed, the same command goes on where it
    was, and the file is the same to the last byte.
    """
    from distsgd.cli.progress import make_observer

    kept = [name for name in (keep or "").split(",") if name]
    with make_observer(quiet=quiet) as observer:
        from distsgd.run.prediction import predict as predict_rows

        done = predict_rows(run, data, out, keep=kept, workers=workers, address=address, observer=observer)
    if not quiet:
        click.echo(f"{counted(done.rows, 'row')} predicted: {done.path}")
