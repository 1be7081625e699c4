"""Time a sweep beside separate runs of its trials: `python -m benchmarks.sweep --data train.parquet`.

Both train once for each of so many learning rates, with the same net and epochs, and are tracked in MLflow, each way in
a new SQLite store of its own that is made before. The separate runs are whole commands, one after the other: with
`--workers 0` in a process, which is the faster way for one run, and as `distsgd train` is by itself, on Ray. The
weights of each learning rate have to be the same in all of them; exits 1 if they are not.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from benchmarks import machine

BEST = 0.9
"""The share of the time of separate runs that a sweep may take at most."""


def learning_rates(count: int) -> list[float]:
    """Return learning rates from 0.003 to 0.3, evenly spread on a logarithmic scale."""
    return [float(f"{10 ** (2 * place / max(1, count - 1) - 2.5):.3g}") for place in range(count)]


def timed(folder: Path, *arguments: str) -> float:
    """Return the seconds that a command of distsgd takes; RuntimeError if it fails."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "distsgd.cli", *arguments, "--quiet"],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}: {done.stderr.strip()[-300:]}")
    return time.perf_counter() - began


def hashes(folder: Path) -> list[str]:
    """Return the hashes of the weights of the runs below a folder, in the order of their names."""
    found = sorted(folder.glob("*/result.json"))
    return [json.loads(path.read_text())["weights_sha256"] for path in found]


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), help="Rows; without it, the built-in digits.")
@click.option("--hidden", default=64, show_default=True, help="Hidden units.")
@click.option("--epochs", default=1, show_default=True, help="Epochs of each trial.")
@click.option("--rates", default=16, show_default=True, help="Learning rates.")
@click.option("--ray/--no-ray", default=True, show_default=True, help="Whether to time separate runs on Ray, too.")
def main(data: Path | None, hidden: int, epochs: int, rates: int, *, ray: bool) -> None:
    """Time a sweep beside separate runs of its trials."""
    values = learning_rates(rates)
    options = ["--set", f"model.hidden={hidden}", "--set", f"train.epochs={epochs}"]
    options += ["--data", str(data.absolute())] if data is not None else []
    ways = {"separate runs, --workers 0": ["--workers", "0"]} | ({"separate runs, on Ray": []} if ray else {})
    click.echo(machine.in_words(machine.facts(), ("numpy", "ray")))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def stored(way: str) -> Path:
            """Return a folder with an MLflow store, which takes a while to make."""
            place = folder / way
            place.mkdir()
            timed(place, "train", "--workers", "0", "--set", "train.max_steps=1", "--run-dir", "store")
            return place

        grid = ",".join(map(str, values))
        place = stored("sweep")
        of_sweep = timed(place, "sweep", *options, "--grid", f"optim.lr={grid}", "--run-dir", "trials")
        expected = hashes(place / "trials")
        click.echo(f"{'sweep':28} {of_sweep:7.1f} s")
        same = len(expected) == rates
        for way, more in ways.items():
            place = stored(way)
            seconds = [
                timed(place, "train", *options, *more, "--set", f"optim.lr={value}", "--run-dir", f"runs/{number:03}")
                for number, value in enumerate(values)
            ]
            share = of_sweep / sum(seconds)
            same = same and hashes(place / "runs") == expected
            met = "at most" if share <= BEST else "more than"
            click.echo(f"{way:28} {sum(seconds):7.1f} s   the sweep takes {share:.2f} of that, {met} {BEST}")
    click.echo("the weights are the same" if same else "the weights are NOT the same")
    sys.exit(not same)


if __name__ == "__main__":
    main()
