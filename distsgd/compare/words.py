"""The numbers of a comparison as terminal and page show them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distsgd.compare.comparison import Comparison
from distsgd.compare.runs import LARGEST
from distsgd.compare.settings import ROWS, Setting, text

BARS = "▁▂▃▄▅▆▇█"

BAR_COUNT = 12
"""Characters of a curve in the terminal."""


def number(value: float | None) -> str:
    """Return a number in a few digits; a dash if there is none."""
    if value is None:
        return "-"
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.3g}"


def value_text(key: str, value: Any) -> str:
    """Return a parameter's value; of a digest its beginning."""
    return str(value)[:8] if key == ROWS else text(value)


def columns(comparison: Comparison) -> list[str]:
    """Return the headings of the table of settings."""
    names = list(comparison.settings[0].values) if comparison.settings else []
    return [*names, "seeds", comparison.metric, "spread", "95 % interval", "seconds"]


def row(comparison: Comparison, setting: Setting) -> list[str]:
    """Return the cells of a setting."""
    found = setting.summary(comparison.metric)
    seconds = [run.seconds for run in setting.runs.values() if run.seconds is not None]
    interval = None if found is None or found.interval is None else " to ".join(map(number, found.interval))
    return [
        *(value_text(key, value) for key, value in setting.values.items()),
        str(len(setting.runs)),
        number(None if found is None else found.mean),
        number(None if found is None else found.spread),
        interval or "-",
        number(sum(seconds) / len(seconds)) if seconds else "-",
    ]


def bars(setting: Setting, metrics: Sequence[str] = ("val/loss", "train/loss")) -> str:
    """Return the learning curve of a setting's first run in a few characters, from its lowest to its highest loss."""
    run = next(iter(setting.runs.values()))
    curve = next((run.curves[key] for key in metrics if len(run.curves.get(key, ())) > 1), None)
    if curve is None:
        return ""
    count = min(BAR_COUNT, len(curve))
    places = [round(place * (len(curve) - 1) / (count - 1)) for place in range(count)]
    values = [float(curve.values[place]) for place in places]
    finite = [value for value in values if abs(value) < LARGEST]
    if not finite:
        return ""
    low, high = min(finite), max(finite)
    span = high - low or 1.0
    return "".join(BARS[round((value - low) / span * 7)] if abs(value) < LARGEST else "?" for value in values)
