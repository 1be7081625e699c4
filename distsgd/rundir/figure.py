"""The learning curve as a picture.

Only this file imports matplotlib, which takes a second: it is imported when a picture is drawn, after training.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from distsgd.rundir.journal import Record

PANELS = (
    ("loss", (("train/loss", "training, each mini-batch, with L2", "#8ab4d8"), ("val/loss", "held out", "#c44e52"))),
    ("accuracy", (("val/accuracy", "held out", "#2a7f4f"),)),
    ("R²", (("val/r2", "held out", "#2a7f4f"),)),
)

SMALL_PANELS = (
    ("val/loss", "validation loss", "#c44e52"),
    ("val/accuracy", "validation accuracy", "#2a7f4f"),
    ("val/r2", "validation R²", "#2a7f4f"),
)

LARGEST = 1e300
"""Larger values are drawn as this; matplotlib cannot leave a margin above the largest float."""


class LearningCurve(Figure):
    """A figure of matplotlib that notebooks display as it is, without pyplot."""

    def _repr_svg_(self) -> str:
        text = io.StringIO()
        self.savefig(text, format="svg", metadata={"Date": None})
        return text.getvalue()


def learning_curve(records: Sequence[Record]) -> LearningCurve:
    """Return loss and accuracy against the epoch, a panel each; panels without a point are left out."""
    keys = {key for record in records for key in record}
    panels = [(title, series) for title, series in PANELS if any(key in keys for key, _, _ in series)]
    figure = LearningCurve(figsize=(7.2, 3 * max(1, len(panels))), layout="constrained")
    for number, (title, series) in enumerate(panels, start=1):
        axes = figure.add_subplot(len(panels), 1, number, title=title, xlabel="epoch")
        axes.grid(color="#e4e4e4")
        for key, label, colour in series:
            points = [(record["epoch"], min(record[key], LARGEST)) for record in records if key in record]
            if points:
                axes.plot(*zip(*points, strict=True), color=colour, label=label, marker="o", markevery=[-1], gid=key)
        axes.legend()
    return figure


def draw_curves(records: Sequence[Record], path: Path) -> None:
    """Write a small picture, 256 by 84 pixels, of validation loss and accuracy against the epoch, as an SVG file."""
    figure = Figure(figsize=(256 / 96, 84 / 96))  # the layout is fixed: matplotlib's own fails if labels are long
    panels = [panel for panel in SMALL_PANELS if any(panel[0] in record for record in records)]
    for number, (key, title, colour) in enumerate(panels, start=1):
        axes = figure.add_axes((0.5 * number - 0.37, 0.2, 0.36, 0.62))
        axes.locator_params(nbins=4)
        axes.yaxis.set_major_formatter("{x:.3g}")
        axes.set_title(title, fontsize=7, pad=3)
        axes.tick_params(labelsize=6, length=2, pad=1.5)
        axes.grid(color="#e4e4e4")
        points = [(record["epoch"], min(record[key], LARGEST)) for record in records if key in record]
        if points:
            axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.2, marker=".", markevery=[-1], gid=key)
    figure.savefig(path, format="svg", metadata={"Date": None})


def draw_learning_curve(records: Sequence[Record], path: Path) -> None:
    """Write the learning curve as an SVG file."""
    learning_curve(records).savefig(path, format="svg", metadata={"Date": None})
