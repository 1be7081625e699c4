"""A bar chart of a comparison: a group of bars per shape, on a logarithmic scale."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

from benchmarks.contestants import CONTESTANTS, OURS
from benchmarks.report import Results
from benchmarks.summary import milliseconds


def draw(results: Results, path: Path) -> None:
    """Draw the chart and save it; error bars span the fastest and the slowest round."""
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    names = {row.contestant for rows in results.values() for row in rows}
    contestants = [contestant for contestant in CONTESTANTS if contestant.name in names]
    width = 0.85 / len(contestants)
    figure, axes = plt.subplots(figsize=(2.6 * len(results) + 2, 4.8), layout="constrained")
    for number, contestant in enumerate(contestants):
        for location, rows in enumerate(results.values()):
            for row in rows:
                if row.contestant != contestant.name:
                    continue
                x = location + (number - (len(contestants) - 1) / 2) * width
                whiskers = [[row.median_ms - row.fastest_ms], [row.slowest_ms - row.median_ms]]
                colour = "black" if contestant is OURS else f"C{number}"
                label = None if location else contestant.label
                axes.bar(x, row.median_ms, width, yerr=whiskers, color=colour, ecolor="gray", label=label)
                axes.annotate(
                    milliseconds(row.median_ms), (x, row.slowest_ms), (0, 2), textcoords="offset points", ha="center",
                    fontsize=6,
                )  # fmt: skip
    axes.set_yscale("log")
    axes.set_ylabel("milliseconds a step (median)")
    axes.set_xticks(range(len(results)), [str(shape) for shape in results])
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=150)
    plt.close(figure)
