"""Tables of a comparison, for the terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks import machine
from benchmarks.contestants import CONTESTANTS, OURS, Contestant
from benchmarks.shapes import Shape
from benchmarks.summary import Row, milliseconds, ratio_text

RESULTS = "results"

LABELS = {contestant.name: contestant.label for contestant in CONTESTANTS}

Results = Mapping[Shape, Sequence[Row]]


def table(results: Results) -> Table:
    """Return the table of all shapes and contestants."""
    drawn = Table(title="Milliseconds a step (medians), and how many times distsgd's step that is")
    for column in ("net@batch", "contestant"):
        drawn.add_column(column)
    for column in ("median", "fastest", "slowest", "over distsgd", "target"):
        drawn.add_column(column, justify="right")
    for shape, rows in results.items():
        for number, row in enumerate(rows):
            colour = {True: "green", False: "red", None: ""}[row.met]
            ratio = ratio_text(row.contestant, row.ratio)
            drawn.add_row(
                str(shape) if number == 0 else "",
                LABELS.get(row.contestant, row.contestant),
                *(milliseconds(value) for value in (row.median_ms, row.fastest_ms, row.slowest_ms)),
                f"[{colour}]{ratio}[/{colour}]" if colour else ratio,
                ratio_text(row.contestant, row.target),
            )
        drawn.add_section()
    return drawn


def markdown(results: Results, facts: Mapping[str, Any], conditions: str) -> str:
    """Return two tables, milliseconds and ratios with targets, below a line with the machine and the conditions."""
    contestants = [c for c in CONTESTANTS if any(row.contestant == c.name for rows in results.values() for row in rows)]
    peers = [contestant for contestant in contestants if contestant is not OURS]
    lines = [
        f"{machine.in_words(facts, ('numpy', 'torch', 'scikit-learn', 'ray'))} {conditions}",
        "",
        "Milliseconds a step, medians:",
        "",
        *_grid(results, contestants, lambda row: milliseconds(row.median_ms)),
        "",
        "Over distsgd's step with a shard for each worker (in brackets: the target):",
        "",
        *_grid(results, peers, _ratio_and_target),
    ]
    return "\n".join(lines)


def _ratio_and_target(row: Row) -> str:
    text = ratio_text(row.contestant, row.ratio)
    return text if row.target is None else f"{text} ({ratio_text(row.contestant, row.target)})"


def _grid(results: Results, contestants: Sequence[Contestant], cell: Any) -> list[str]:
    """Return a Markdown table with a row for each shape and a column for each contestant."""
    lines = ["| net@batch | " + " | ".join(c.label for c in contestants) + " |", "|---|" + "--:|" * len(contestants)]
    for shape, rows in results.items():
        found = {row.contestant: cell(row) for row in rows}
        lines.append(f"| {shape} | " + " | ".join(found.get(c.name, "-") for c in contestants) + " |")
    return lines


def markers(section: str = RESULTS) -> tuple[str, str]:
    """Return the lines of a Markdown file between which a section is replaced."""
    return f"<!-- {section} begin -->", f"<!-- {section} end -->"


def replace_results(path: Path, text: str, section: str = RESULTS) -> None:
    """Replace the text between the two markers of a Markdown file. Raises ValueError if a marker is missing."""
    first, last = markers(section)
    content = path.read_text()
    before, begin, rest = content.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise ValueError(f"{path} has no section between {first} and {last} to put the results in")
    path.write_text(f"{before}{first}\n{text}\n{last}{after}")
