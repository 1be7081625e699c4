"""Compare steps on several nodes, in network namespaces of this machine: `python -m benchmarks.nodes --nodes 2`.

Each node has a worker, a raylet and an address; all contestants run in the same namespaces, in alternation. distsgd on
one node has as many workers there. It needs root.
"""

from __future__ import annotations

import itertools
import json
import secrets
import tempfile
import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from benchmarks import machine, options, report, summary
from benchmarks.contestants import ContestantError, Settings
from benchmarks.node_contestants import CONTESTANTS, NodeContestant, Place, measure, place_for, ray_environment
from benchmarks.node_report import SECTION, Case, markdown, table
from benchmarks.shapes import Shape, make_data

from namespaces import MOST, has_netem, unavailable  # isort: skip

Measurements = dict[Case, dict[str, list[dict[str, Any]]]]
"""For each case and contestant, what it printed in each round."""


def alternate(
    place: Place,
    case: Case,
    contestants: list[NodeContestant],
    *,
    rounds: int,
    settings: Settings,
    data: Path,
    environment: dict[str, str],
    console: Console,
) -> dict[str, list[dict[str, Any]]]:
    """Measure every contestant once per round; one that fails is reported and left out of the rounds that follow."""
    found: dict[str, list[dict[str, Any]]] = {contestant.name: [] for contestant in contestants}
    by_name, failed = {contestant.name: contestant for contestant in contestants}, set()
    for number in range(rounds):
        for name in summary.rotated(list(by_name), number):
            if name in failed:
                continue
            load = machine.load_average()
            try:
                measured = measure(by_name[name], case.shape, data, settings, place, environment)
            except ContestantError as error:
                failed.add(name)
                console.print(f"left out: {error}")
                continue
            found[name].append(measured | {"load_average": load})
            time_ms = summary.milliseconds(measured["step_ms_p50"])
            console.print(
                f"{case.shape}  {case.nodes} nodes, {case.delay_ms:g} ms  round {number + 1}/{rounds}  {name:10} "
                f"{time_ms} ms  (load {load:.1f})"
            )
    return found


def as_json(measurements: Measurements, about: dict[str, Any]) -> dict[str, Any]:
    """Return the content of the results file."""
    cases = [
        {
            "shape": str(case.shape),
            "parameters": case.shape.parameters,
            "nodes": case.nodes,
            "delay_ms": case.delay_ms,
            "measurements": by_name,
        }
        for case, by_name in measurements.items()
    ]
    return about | {"cases": cases}


def present(names: tuple[str, ...], console: Console) -> list[NodeContestant]:
    """Return the contestants of these names that can run here, and report those that cannot."""
    found = []
    for contestant in CONTESTANTS:
        if names and contestant.name not in names:
            continue
        if problem := contestant.program.missing():
            console.print(f"{contestant.label} is left out: {problem}")
        else:
            found.append(contestant)
    return found


@click.command()
@click.option(
    "--nodes", "counts", multiple=True, type=click.IntRange(2, MOST), default=(2, 4), show_default=True,
    help="Nodes with a worker each; may be repeated.",
)  # fmt: skip
@click.option(
    "--delay-ms", "delays", multiple=True, type=click.FloatRange(0, 1000), default=(0.0,), show_default=True,
    help="Delay from one node to another, one way; may be repeated.",
)  # fmt: skip
@click.option("--rate", help="Limit on what a node sends, as `tc` understands it, such as 10gbit.")
@click.option("--own-cores", is_flag=True, help="Give each node its share of the cores, as if it were a machine.")
@click.option("--connections", default=1, show_default=True, help="Connections of each pair of nodes, plain sockets.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Another setting of distsgd's.")
@click.option("--only", multiple=True, type=click.Choice([c.name for c in CONTESTANTS]), help="Only this contestant.")
@options.shapes
@options.rounds
@options.seconds
@click.option("--json", "out", type=click.Path(path_type=Path), help="File for all measurements.")
@click.option("--markdown", "page", type=click.Path(path_type=Path, exists=True), help="File whose section to update.")
def main(
    counts: tuple[int, ...],
    delays: tuple[float, ...],
    rate: str | None,
    own_cores: bool,
    connections: int,
    overrides: tuple[str, ...],
    only: tuple[str, ...],
    shapes: tuple[Shape, ...],
    rounds: int,
    seconds: float,
    out: Path | None,
    page: Path | None,
) -> None:
    """Time distsgd, on one node and on several, and its peers on the same nodes, in alternation."""
    if reason := unavailable():
        raise click.UsageError(f"there can be no nodes here: {reason}")
    if own_cores and max(counts) > machine.cores():
        raise click.UsageError(
            f"--own-cores: {max(counts)} nodes cannot share {machine.cores()} cores; give fewer --nodes"
        )
    console = Console(highlight=False, soft_wrap=True, markup=False)
    contestants, environment = present(only, console), ray_environment(secrets.token_hex(32))
    environment["CONNECTIONS"] = str(connections)
    measurements: Measurements = {}
    with tempfile.TemporaryDirectory(prefix="distsgd-bench-") as folder:
        for nodes, delay in itertools.product(counts, delays):
            settings = Settings(workers=nodes, threads=1, seconds=seconds, overrides=overrides)
            links = {"delay_ms": delay, "rate": rate, "own_cores": own_cores}
            with place_for(contestants, nodes, environment, **links) as place:
                for shape in shapes:
                    case, data = Case(shape, nodes, delay), make_data(shape, "float32", Path(folder))
                    measurements[case] = alternate(
                        place, case, contestants,
                        rounds=rounds, settings=settings, data=data, environment=environment, console=console,
                    )  # fmt: skip
    times = {
        case: {name: [m["step_ms_p50"] for m in found] for name, found in by_name.items()}
        for case, by_name in measurements.items()
    }
    console.print("\n".join(table(times)))
    loads = [m["load_average"] for by_name in measurements.values() for found in by_name.values() for m in found]
    delayed = "" if not any(delays) else f" delays by {'netem' if has_netem() else 'a switch in a process of its own'};"
    conditions = (
        f"A worker on each node, {rounds} rounds of {seconds:g} s,{delayed} {rate or 'no'} limit on the rate, "
        f"{'the cores divided among the nodes, ' if own_cores else ''}"
        f"{connections} connections of each pair of plain sockets, settings {', '.join(overrides) or 'as they are'}; "
        f"load average before a run {min(loads):.1f} to {max(loads):.1f}; {time.strftime('%Y-%m-%d', time.gmtime())}."
    )
    about = {"machine": machine.facts(), "rounds": rounds, "seconds": seconds, "rate": rate, "conditions": conditions}
    if out is not None:
        out.write_text(json.dumps(as_json(measurements, about), indent=1))
    if page is not None:
        report.replace_results(page, markdown(times, machine.facts(), conditions), SECTION)


if __name__ == "__main__":
    main()
