"""Tables of a comparison on several nodes."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import machine
from benchmarks.node_contestants import CONTESTANTS, MESH, OURS_NODES, OURS_ONE_NODE, SOCKETS
from benchmarks.scaling_report import grid
from benchmarks.shapes import Shape
from benchmarks.summary import milliseconds

SECTION = "nodes"
"""Name of the section of a Markdown file that `--markdown` renews."""


@dataclass(frozen=True)
class Case:
    """A net on a number of nodes with a delay between them."""

    shape: Shape
    nodes: int
    delay_ms: float
    """One way."""


Results = Mapping[Case, Mapping[str, Sequence[float]]]
"""For each case and contestant, the median step of each round in milliseconds."""


def medians(by_name: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return the median over the rounds for every contestant that was measured."""
    return {name: statistics.median(times) for name, times in by_name.items() if times}


def ratio(found: Mapping[str, float], name: str, base: str) -> str:
    """Return how many times another contestant's step one's is, or a dash if one of them was not measured."""
    return f"{found[name] / found[base]:.2f}×" if name in found and base in found else "-"


def table(results: Results) -> list[str]:
    """Return the lines of a Markdown table with a row for each case."""
    peers = [contestant for contestant in CONTESTANTS if contestant not in (OURS_NODES, OURS_ONE_NODE, SOCKETS, MESH)]
    head = ["net@batch", "nodes", "delay, ms"]
    head += [contestant.label for contestant in CONTESTANTS]
    head += ["distsgd over one node", *(f"{peer.label} over distsgd" for peer in peers)]
    head += ["plain sockets over distsgd's exchange"]
    rows = []
    for case, by_name in results.items():
        found = medians(by_name)
        cells = [milliseconds(found[c.name]) if c.name in found else "-" for c in CONTESTANTS]
        ratios = [ratio(found, OURS_NODES.name, OURS_ONE_NODE.name)]
        ratios += [ratio(found, peer.name, OURS_NODES.name) for peer in peers]
        ratios += [ratio(found, SOCKETS.name, MESH.name)]
        rows.append([str(case.shape), str(case.nodes), f"{case.delay_ms:g}", *cells, *ratios])
    return grid(head, rows)


def markdown(results: Results, facts: Mapping[str, Any], conditions: str) -> str:
    """Return the table, below a line with the machine and the conditions."""
    about = machine.in_words(facts, ("numpy", "torch", "ray"))
    return "\n".join([f"{about} {conditions}", "", "Milliseconds a step, medians:", "", *table(results)])
