"""The pictures of a comparison, as SVG: learning curves, and learning rate against the final metric.

Only this file of the comparison imports matplotlib. Names are not written into the pictures: the page has them beside
the colours, in its table and in the legend of each picture.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from distsgd.compare.comparison import Comparison
from distsgd.compare.runs import Run

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195", "#8c6d31", "#636363", "#bc5090")
"""Of the first settings, those of Okabe and Ito first, which colour-blind readers can tell apart."""

OTHERS = "#c9c9c9"
"""Of all other settings."""

POINTS = 250
"""Points that a curve is drawn with at most."""

FEW_POINTS = 60
"""Those of a curve in the colour of all others, which only shows where it lies."""

PANEL_POINTS = 8_000
"""Points of the coloured curves of a panel, roughly: of very many, each has fewer."""

SMALLEST, WIDER, MOST_RINGS = 5.0, 3.5, 5
"""Diameter in points of a run's ring, how much wider each further ring at the same place is, and how many there are."""

LARGEST = 1e30
"""Larger values are drawn as this; matplotlib cannot leave a margin above the largest floats."""

TITLES = {"val/loss": "validation loss", "train/loss": "training loss", "val/accuracy": "validation accuracy"}
TITLES |= {"val/r2": "validation R²"}


def colour(place: int) -> str:
    """Return the colour of the setting at a place in the table, from 0."""
    return COLOURS[place] if place < len(COLOURS) else OTHERS


def curves(comparison: Comparison) -> str:
    """Return the learning curves of all settings over steps, samples and seconds, a row for each metric, as SVG."""
    rows = [metric for metric in ("val/loss", "train/loss") if _have(comparison, metric)][:1]
    rows += [metric for metric in ("val/accuracy", "val/r2") if _have(comparison, metric)]
    height = 2.7 * max(1, len(rows))
    figure = Figure(figsize=(10.5, height))
    _place(figure, height, between=0.45)
    axes = figure.subplots(max(1, len(rows)), 3, sharey="row", squeeze=False)
    for metric, line in zip(rows, axes, strict=False):
        for name, panel in zip(("steps", "samples", "seconds"), line, strict=True):
            _draw(comparison, metric, name, panel)
        line[0].set_ylabel(TITLES[metric])
    return _svg(figure, "curves")


def _have(comparison: Comparison, metric: str) -> bool:
    return any(len(run.curves.get(metric, ())) for setting in comparison.settings for run in setting.runs.values())


def _draw(comparison: Comparison, metric: str, axis: str, panel: Axes) -> None:
    panel.set_xlabel(axis)
    panel.grid(color="#e6e6e6", linewidth=0.6)
    runs = sum(len(setting.runs) for setting in comparison.settings[: len(COLOURS)])
    coloured = max(FEW_POINTS, min(POINTS, PANEL_POINTS // max(1, runs)))
    for place, setting in reversed(list(enumerate(comparison.settings))):
        points = coloured if place < len(COLOURS) else FEW_POINTS
        lines = [_line(run, metric, axis, points) for run in setting.runs.values()]
        found = [line for line in lines if line is not None]
        single = len(found) == 1
        collection = LineCollection(
            found,
            colors=colour(place),
            linewidths=1.6 if single and place < len(COLOURS) else 0.9,
            alpha=1.0 if single else 0.75,
            gid=f"{metric}-{axis}-setting-{place + 1}",
        )
        panel.add_collection(collection)
    panel.autoscale_view()
    if "loss" in metric and _spans_decades(panel):
        panel.set_yscale("log")


def _spans_decades(panel: Axes) -> bool:
    """Return whether the losses of a panel are positive and differ by a factor of more than thirty."""
    low, high = panel.dataLim.intervaly
    return bool(0 < low <= high and high / low > 30)  # without a line it is from infinity down to minus infinity


def _line(run: Run, metric: str, axis: str, points: int) -> NDArray[np.float64] | None:
    """Return a run's curve (n, 2), of at most so many points; None if there are none."""
    curve = run.curves.get(metric)
    if curve is None or not len(curve):
        return None
    if axis == "steps":
        x = curve.steps.astype(np.float64)
    elif axis == "samples":
        samples = run.samples(curve.steps)
        if samples is None:
            return None
        x = samples
    else:
        began = min(float(one.times[0]) for one in run.curves.values() if len(one))
        x = (curve.times - began) / 1000
    y = np.clip(curve.values, -LARGEST, LARGEST)
    chosen = np.unique(np.linspace(0, len(x) - 1, min(points, len(x))).round().astype(np.int64))
    chosen = chosen[np.isfinite(y[chosen])]
    return np.column_stack([x[chosen], y[chosen]]) if len(chosen) else None


def learning_rates(comparison: Comparison) -> str | None:
    """Return learning rate against the final metric of each run as SVG; None unless there are several rates."""
    points = []
    for place, setting in enumerate(comparison.settings):
        for run in setting.runs.values():
            rate, final = run.parameters.get("optim.lr", run.parameters.get("lr")), run.final(comparison.metric)
            if isinstance(rate, int | float) and 0 < rate < LARGEST and final is not None and np.isfinite(final):
                points.append((place, float(rate), min(final, LARGEST)))
    if len({rate for _, rate, _ in points}) < 2:
        return None
    figure = Figure(figsize=(10.5, 3.2))
    _place(figure, 3.2)
    panel = figure.subplots()
    rings, equal = _rings([(rate, final) for _, rate, final in points])
    for place in sorted({place for place, _, _ in points}, reverse=True):
        mine = [number for number, (of, _, _) in enumerate(points) if of == place]
        panel.scatter(
            [points[number][1] for number in mine],
            [points[number][2] for number in mine],
            s=[(SMALLEST + WIDER * min(rings[number], MOST_RINGS)) ** 2 for number in mine],
            facecolors="none",
            edgecolors=colour(place),
            linewidths=1.4,
            gid=f"rate-setting-{place + 1}",
        )
    for (rate, final), count in equal.items():
        panel.annotate(f"×{count}", (rate, final), xytext=(9, 5), textcoords="offset points", fontsize=8)
    panel.set_xscale("log")
    panel.set_xlabel("learning rate")
    panel.set_ylabel(f"final {TITLES.get(comparison.metric, comparison.metric)}")
    panel.grid(color="#e6e6e6", linewidth=0.6)
    return _svg(figure, "rates")


def _rings(points: Sequence[tuple[float, float]]) -> tuple[list[int], dict[tuple[float, float], int]]:
    """Return which ring of its place each point becomes, from 0, and how many points there are where there are several.

    Points at one place are rings around each other: none is moved, and none hides another.
    """
    seen = Counter[tuple[float, float]]()
    rings = []
    for point in points:
        rings.append(seen[point])
        seen[point] += 1
    return rings, {point: count for point, count in seen.items() if count > 1}


def _place(figure: Figure, height: float, between: float = 0.0) -> None:
    """Leave fixed margins, in inches, for labels: finding out how much they need takes as long as drawing twice."""
    width = figure.get_figwidth()
    figure.subplots_adjust(
        left=0.8 / width,
        right=1 - 0.12 / width,
        bottom=0.5 / height,
        top=1 - 0.15 / height,
        wspace=0.06,
        hspace=between,
    )


def _svg(figure: Figure, name: str) -> str:
    """Return a figure as an `svg` element, whose IDs are its own on a page with several."""
    content = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = content.getvalue()
    element = text[text.index("<svg") :]
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    return re.sub(r'id="(figure|axes|patch|text|line2d|matplotlib|xtick|ytick)', rf'id="{name}-\1', element)
