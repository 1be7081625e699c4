"""`python -m tests.hostile`: any number of hostile inputs, and the tally."""

from __future__ import annotations

import contextlib
import importlib.util
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from types import FrameType

import click
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tests find each other by bare names

from hostile.campaign import BATCH, GENERATORS, MODULES, Failure, generator, try_batch
from hostile.sandbox import LIMIT_S

KINDS = {"traceback": "tracebacks", "hang": "hangs", "leftover": "left behind", "secret": "secrets", "wrong": "wrong"}


def shares(names: list[str], examples: int) -> dict[str, int]:
    """Return how many cases of each generator are tried, `examples` in all."""
    weights = {name: generator(name).share for name in names}
    counts = {name: round(examples * weight / sum(weights.values())) for name, weight in weights.items()}
    counts[names[0]] += examples - sum(counts.values())
    return counts


def tally(tried: dict[str, tuple[int, float, list[Failure]]]) -> Table:
    """Return the table of what was tried and what came of it."""
    table = Table("generator", "inputs", *KINDS.values(), "seconds", title="hostile inputs")
    total: Counter[str] = Counter()
    for name, (inputs, seconds, failures) in tried.items():
        counts = Counter(kind for _, _, kind in {(f.seed, f.number, f.problem.kind) for f in failures})
        total += counts + Counter(inputs=inputs)
        table.add_row(name, str(inputs), *(str(counts[kind]) for kind in KINDS), f"{seconds:.0f}")
    table.add_row("all", str(total["inputs"]), *(str(total[kind]) for kind in KINDS), "", end_section=True)
    return table


def present() -> list[str]:
    """Return the generators whose module is there."""
    return [name for name in GENERATORS if importlib.util.find_spec(f"hostile.{MODULES.get(name, name)}")]


def ended_early(signum: int, _: FrameType | None) -> None:
    """Say that a signal ends this process: behind a pipe nobody sees its exit code."""
    with contextlib.suppress(OSError):
        print(f"hostile inputs: ended early by {signal.Signals(signum).name}", file=sys.stderr, flush=True)
    sys.exit(128 + signum)


@click.command()
@click.option("--examples", default=1000, show_default=True, help="Inputs in all.")
@click.option("--seed", default=0, show_default=True, help=f"Seed of the first {BATCH} of each; the others follow.")
@click.option("--only", help="Generators to use, with commas in between; otherwise all.")
@click.option("--case", type=int, help="Try this one of the seed's cases alone; needs --only with one generator.")
@click.option("--limit-s", default=LIMIT_S, show_default=True, help="Seconds after which a command hangs.")
def main(examples: int, seed: int, only: str | None, case: int | None, limit_s: float) -> None:
    """Try hostile inputs; exit with 1 if one of them was not treated well, or if not all were tried."""
    for stop in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(stop) is not signal.SIG_IGN:  # as under nohup
            signal.signal(stop, ended_early)  # so that nothing is left behind
    console = Console(highlight=False, soft_wrap=True)
    names = only.split(",") if only else present()
    if unknown := set(names) - set(GENERATORS):
        raise click.UsageError(f"no generators: {', '.join(sorted(unknown))}; there are {', '.join(GENERATORS)}")
    if case is not None and len(names) != 1:
        raise click.UsageError("--case is one of one generator: name that with --only")
    counts = shares(names, examples) if case is None else {names[0]: BATCH}
    tried: dict[str, tuple[int, float, list[Failure]]] = {}
    for name, count in counts.items():
        began, inputs, failures = time.monotonic(), 0, list[Failure]()
        for batch in range(-(-count // BATCH)):
            number, found = try_batch(
                name, seed + batch, count=min(BATCH, count - batch * BATCH), only=case, limit_s=limit_s
            )
            inputs += number
            failures += found
            for failure in found:
                console.print(str(failure), markup=False)
        tried[name] = inputs, time.monotonic() - began, failures
        console.print(f"{name}: {inputs} tried, {len(failures)} problems", markup=False)
    console.print(tally(tried))
    done, wanted = sum(inputs for inputs, _, _ in tried.values()), examples if case is None else 1
    console.print(f"{done} of {wanted} inputs tried: {'all' if done == wanted else 'NOT ALL'}")
    sys.exit(done != wanted or any(failures for _, _, failures in tried.values()))


if __name__ == "__main__":
    main()
