"""`distsgd export`."""

from __future__ import annotations

from pathlib import Path

import click

FORMATS = ("onnx", "safetensors", "sklearn", "npz")
"""The keys of `distsgd.export.formats.FORMATS`, which is not imported for the help."""


@click.command(short_help="Write the model in another library's format.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--format", "form", required=True, type=click.Choice(FORMATS), help="The format.")
@click.option("--out", required=True, metavar="PATH", type=click.Path(path_type=Path), help="File to write.")
def export(run: Path, form: str, out: Path) -> None:
    """Write the model in the run directory RUN as a file of another library, which predicts the same.

    \b
    onnx         .onnx         encoding, normalisation, net and classes in one graph, checked through onnxruntime
    safetensors  .safetensors  the arrays, with classes and columns in the header
    sklearn      .skops        a fitted pipeline, for skops.io.load(PATH, trusted=['numpy.dtype'])
    npz          .npz          model.npz, with the version of its format
    """  # noqa: D301 - click keeps the lines of a paragraph that begins with this character
    from distsgd.export.formats import export as export_model
    from distsgd.run.model import TrainedRun
    from distsgd.rundir.directory import check_not_own_file

    predictor = TrainedRun.open(run).predictor
    check_not_own_file(out)
    difference = export_model(predictor, form, out)
    compared = f"; its outputs differ from the model's by {difference:.1e} at most" if difference else ""
    click.echo(f"{out}{compared}")
