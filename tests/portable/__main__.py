"""Random runs in portable arithmetic, each in many ways that must come to the same bits: `python -m tests.portable`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tests find each other by bare names

import click

import distsgd
from portable.arm64 import on_arm64
from portable.child import KERNELS, digests
from portable.configurations import spec_of
from portable.links import over_links
from portable.on_ray import on_ray

ARM64_RUNS = 3


@click.command()
@click.option("--runs", default=30, show_default=True, help="How many random configurations.")
@click.option("--first", default=0, show_default=True, help="The number of the first one.")
@click.option("--arm64", type=click.Path(path_type=Path), help="Also train three on emulated ARM64; a folder for it.")
@click.option("--ray/--no-ray", default=True, show_default=True, help="Train each of them on Ray, too.")
def main(runs: int, first: int, arm64: Path | None, ray: bool) -> None:
    """Train each configuration with several BLAS kernels, threads, cuts, orders, links, deaths and resumes.

    Exit 1 if any bits differ.
    """
    numbers, kernels = range(first, first + runs), []
    found: dict[int, dict[str, str]] = {number: {} for number in numbers}
    for kernel in KERNELS:
        for threads in (1, 2):
            answer = digests(kernel, threads, numbers)
            if answer is None:
                click.echo(f"{kernel}: this processor cannot run it")
                break
            if threads == 1:
                kernels.append(kernel)
            blas, of_runs = answer
            for number, ways in of_runs.items():
                found[number] |= {f"{blas}, {threads} threads, {way}": digest for way, digest in ways.items()}
            click.echo(f"{blas}, {threads} threads: {len(of_runs)} runs")
    for number in numbers:
        found[number] |= over_links(spec_of(number, train__log_every=1), number, kernels)
    click.echo(f"processes with mixed kernels, deaths, resumes, TCP and slices: {runs} runs")
    if arm64 is not None:
        few = numbers[:: -(-runs // ARM64_RUNS)]
        blas, of_runs = on_arm64(arm64, few)
        for number, ways in of_runs.items():
            found[number] |= {f"ARM64, {blas}": digest for digest in ways.values()}
        click.echo(f"ARM64, {blas}: runs {', '.join(map(str, few))}")
    if ray:
        with distsgd.session():
            for number in numbers:
                found[number] |= on_ray(number)
        click.echo(f"Ray: {runs} runs")
    bad = [number for number, ways in found.items() if len(set(ways.values())) != 1]
    for number in bad:
        click.echo(f"run {number}:")
        for way, digest in found[number].items():
            click.echo(f"  {digest[:16]}  {way}")
    ways_count = sum(map(len, found.values()))
    click.echo(f"{runs - len(bad)} of {runs} runs have one digest, in {ways_count} ways")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
