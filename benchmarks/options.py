"""Command-line options shared by the benchmark commands."""

from __future__ import annotations

from typing import Any

import click

from benchmarks.shapes import SHAPES, Shape, parse_shape


class ShapeType(click.ParamType[Shape]):
    """The parameter type `D-H-C@BATCH`."""

    name = "D-H-C@BATCH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Shape:
        """Parse the shape."""
        try:
            return value if isinstance(value, Shape) else parse_shape(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


shapes = click.option(
    "--shapes", multiple=True, type=ShapeType(), default=SHAPES, help="A net and mini-batch; may be repeated."
)

seconds = click.option("--seconds", default=3.0, show_default=True, help="Seconds of training per measurement.")

rounds = click.option("--rounds", default=5, show_default=True, help="Measurements per contestant.")

workers = click.option("--workers", default=2, show_default=True, help="Processes that share a mini-batch.")

stored = click.option(
    "--stored",
    default="float32",
    type=click.Choice(["float32", "uint8"]),
    show_default=True,
    help="Type of the features in memory; uint8 is divided by 255 in the mini-batch.",
)
