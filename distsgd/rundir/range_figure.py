"""The picture of a learning-rate range test. It imports matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

LINES = {
    "suggestion": ("suggestion", "#2a7f4f", "-"),
    "steepest_at": ("steepest fall", "#8a6fb0", ":"),
    "lowest_at": ("lowest", "#888888", "--"),
    "diverged_at": ("diverged", "#c44e52", "--"),
}
"""Label, colour and style of the rates that are marked."""

HIGHEST = 1.5
"""The picture ends at so many times the highest smoothed loss: single losses may be far above."""


def draw_range_test(
    rates: Sequence[float], losses: Sequence[float], smoothed: Sequence[float], marks: Mapping[str, float], path: Path
) -> None:
    """Write the losses of a range test against the learning rate (T,), and rates that are marked, as a PNG file."""
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.add_subplot(xlabel="learning rate", ylabel="training loss", title="learning-rate range test")
    axes.set_xscale("log")
    axes.grid(color="#e4e4e4")
    axes.plot(rates, losses, color="#8ab4d8", linewidth=0.8, label="each mini-batch")
    axes.plot(rates, smoothed, color="#1f4e79", linewidth=1.8, label="smoothed")
    for name, (label, colour, style) in LINES.items():
        if name in marks:
            axes.axvline(marks[name], color=colour, linestyle=style, linewidth=1.2, label=f"{label}: {marks[name]:.2g}")
    low, high = min(smoothed), max(smoothed)
    axes.set_ylim(min(low, *losses), HIGHEST * high if high > 0 else None)
    axes.legend()
    figure.savefig(path, format="png", dpi=110, metadata={"Software": None})
