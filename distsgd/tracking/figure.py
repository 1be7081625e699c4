"""The learning curve as an SVG picture, drawn without a plotting library, whose import would cost a second."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

from distsgd.rundir.journal import Record

WIDTH, HEIGHT = 720, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 34, 44
POINTS = 1000
"""Points of a curve at most; of longer ones every n-th is drawn, and the last."""

PANELS = (
    ("loss", (("train/loss", "training, each mini-batch, with L2", "#8ab4d8"), ("val/loss", "held out", "#c44e52"))),
    ("accuracy", (("val/accuracy", "held out", "#2a7f4f"),)),
)


def learning_curve(records: Sequence[Record]) -> str:
    """Return the SVG text: loss and accuracy against the epoch, a panel each; panels without a point are left out."""
    panels = []
    for title, series in PANELS:
        curves = [(label, colour, _points(records, key)) for key, label, colour in series]
        if any(points for _, _, points in curves):
            panels.append(_panel(title, [curve for curve in curves if curve[2]]))
    body = "".join(f'<g transform="translate(0,{i * HEIGHT})">{panel}</g>' for i, panel in enumerate(panels))
    size = f'width="{WIDTH}" height="{max(1, len(panels)) * HEIGHT}"'
    style = "text{font:12px sans-serif;fill:#333}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{style}</style>'
        f'<rect width="100%" height="100%" fill="white"/>{body}</svg>\n'
    )


def _points(records: Sequence[Record], key: str) -> list[tuple[float, float]]:
    """Return (epoch, value) of the records that hold the key, thinned."""
    points = [(record["epoch"], record[key]) for record in records if key in record]
    stride = math.ceil(len(points) / POINTS) or 1
    return points[::stride] + (points[-1:] if (len(points) - 1) % stride else [])


def _panel(title: str, curves: list[tuple[str, str, list[tuple[float, float]]]]) -> str:
    xs = [x for _, _, points in curves for x, _ in points]
    ys = [y for _, _, points in curves for _, y in points]
    x_ticks, y_ticks = ticks(0.0, max(xs)), ticks(min(ys), max(ys))
    x_end, (y_low, y_high) = max(max(xs), x_ticks[-1]), (min(*ys, *y_ticks), max(*ys, *y_ticks))

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            LEFT + (WIDTH - LEFT - RIGHT) * x / x_end,
            HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (y - y_low) / (y_high - y_low),
        )

    parts = [f'<text x="{LEFT}" y="16" font-weight="bold">{title}</text>']
    for tick in y_ticks:
        _, y = at(0, tick)
        parts.append(f'<path d="M{LEFT},{y:.1f}H{WIDTH - RIGHT}" stroke="#e4e4e4"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in x_ticks:
        x, _ = at(tick, y_low)
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{tick:g}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" text-anchor="end">epoch</text>')
    for number, (label, colour, points) in enumerate(curves):
        path = " ".join("{:.1f},{:.1f}".format(*at(x, y)) for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        x, y = at(*points[-1])
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>')
        x = LEFT + 90 + 260 * number
        parts.append(f'<path d="M{x},12h18" stroke="{colour}" stroke-width="3"/>')
        parts.append(f'<text x="{x + 24}" y="16">{html.escape(label)}</text>')
    return "".join(parts)


def ticks(low: float, high: float) -> list[float]:
    """Return two to eight round numbers that span low to high, or low to low + |low| if these hardly differ."""
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # ticks have twelve digits
        high = low + abs(low)
    if high - low < 1e-300:  # whose quarter may have no logarithm
        high = low + 1.0
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]
