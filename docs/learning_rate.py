"""The runs behind learning-rate.md: `python docs/learning_rate.py` trains them and writes tables and pictures again."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt

import distsgd
from distsgd.errors import NonFiniteError

FOLDER = Path(__file__).resolve().parent
PAGE = FOLDER / "learning-rate.md"

RATES = (0.001, 0.01, 0.1, 0.5, 2.0, 5.0)
BATCHES = (16, 64, 256, 1024)

SAME_RATE = {f"batch of {size}": {"train.batch_size": size} for size in BATCHES}
SCALED_RATE = {
    f"batch of {size}, α = {0.1 * size / 64:g}": {"train.batch_size": size, "optim.lr": 0.1 * size / 64}
    for size in BATCHES
}

EXPERIMENTS: dict[str, dict[str, dict[str, Any]]] = {
    "learning-rate": {f"α = {lr:g}": {"optim.lr": lr} for lr in RATES},
    "mini-batch-size": SAME_RATE,
    "mini-batch-size-and-learning-rate": SCALED_RATE,
}
"""What is set in each run of each picture, beside `BASE`."""

BASE = {"run.workers": 0, "tracking.enabled": False, "train.log_every": 1}

HEADER = "| run | steps | training loss after 1 epoch | after 30 epochs | held-out accuracy |\n|---|---|---|---|---|\n"


def trained(keys: dict[str, Any], folder: Path) -> tuple[distsgd.Result | None, list[dict[str, float]]]:
    """Return the result of a run on the digits, None if it ended at a loss that is not finite, and its journal."""
    try:
        result = distsgd.train(BASE | keys | {"run.dir": str(folder)})
    except NonFiniteError:
        result = None
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return result, [record for line in lines if "epoch" in (record := json.loads(line))]


def row(name: str, result: distsgd.Result | None, journal: list[dict[str, float]]) -> str:
    """Return a run's line of the table."""
    if result is None:
        return f"| {name} | {int(journal[-1]['step']):,} | not finite | | |\n"
    means = [record["train/epoch_loss"] for record in journal if "train/epoch_loss" in record]
    return f"| {name} | {result.steps:,} | {means[0]:.3f} | {means[-1]:.3f} | {result.val_accuracy:.3f} |\n"


def replaced(page: str, name: str, table: str) -> str:
    """Return the page with a table in its place."""
    marks = rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)"
    return re.sub(marks, lambda found: f"{found[1]}\n{table}\n{found[2]}", page, flags=re.DOTALL)


def main() -> None:
    """Train, draw, and write."""
    page = PAGE.read_text(encoding="utf-8")
    for name, runs in EXPERIMENTS.items():
        figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
        table = HEADER
        for run, keys in runs.items():
            with tempfile.TemporaryDirectory() as folder:
                result, journal = trained(keys, Path(folder) / "run")
            means = [(r["epoch"], r["train/epoch_loss"]) for r in journal if "train/epoch_loss" in r]
            if means:
                axes.plot(*zip(*means, strict=True), label=run, linewidth=1.2)
            table += row(run, result, journal)
        axes.set(yscale="log", ylim=(1e-3, 10), xlabel="epoch", ylabel="mean training loss of the epoch")
        axes.grid(alpha=0.3)
        figure.legend(loc="outside right")
        figure.savefig(FOLDER / f"{name}.png", dpi=110)
        plt.close(figure)
        page = replaced(page, name, table)
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
