"""Time fits of `DistSGDClassifier` beside scikit-learn's `MLPClassifier`: `python -m benchmarks.estimator`.

For each data set and solver all estimators get the same settings: net, mini-batches, learning rate, L2, epochs, float32
features. In each round all of them are fitted, one after the other, and then again for as many epochs as it takes until
the training loss is as low as the highest of their final losses ("to the same loss"). A ratio is the median of the
ratios within each round. Ray is started before.
"""

from __future__ import annotations

import contextlib
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from sklearn.datasets import load_digits, make_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

import distsgd
from benchmarks import machine, report, summary
from benchmarks.tables import Rows, read_images
from distsgd.sklearn import DistSGDClassifier

SECTION = "estimator"
PEER = "MLPClassifier"

SOLVERS: dict[str, dict[str, Any]] = {
    "SGD, Nesterov": {"solver": "sgd", "momentum": 0.9, "nesterovs_momentum": True, "learning_rate_init": 0.02},
    "Adam": {"solver": "adam", "learning_rate_init": 0.001},
}

COLUMNS = (
    "data, solver",
    "estimator",
    "epochs to the same loss",
    "seconds",
    "times as fast",
    "seconds for all epochs",
    "times as fast",
    "accuracy",
)

Make = Callable[[int], Any]
"""Returns an estimator that trains for so many epochs."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A data set, divided, and the settings that all estimators get."""

    name: str
    train: Rows
    test: Rows
    hidden: int
    epochs: int
    rounds: int


@dataclass(frozen=True, kw_only=True)
class Row:
    """The results of one estimator."""

    estimator: str
    epochs: int
    """After how many the training loss is as low as the highest of all final losses."""
    to_loss_s: float
    to_loss_ratio: float
    """The peer's time over this estimator's."""
    all_s: float
    all_ratio: float
    accuracy: float


def cases(mnist: Path | None, rounds: int, epochs: int = 20) -> list[Case]:
    """Return the data sets; more rounds for those that take a moment. `epochs` are those of MNIST."""
    few = make_classification(
        200, 4, n_informative=4, n_redundant=0, n_classes=3, n_clusters_per_class=1, random_state=0
    )
    digits = load_digits(return_X_y=True)
    found = [
        _case("200 rows, 4-100-3", few, hidden=100, epochs=200, rounds=7 * rounds),
        _case("digits, 64-100-10", (digits[0] / 16, digits[1]), hidden=100, epochs=60, rounds=4 * rounds),
    ]
    if mnist is not None:
        found.append(_case("MNIST, 784-256-10", read_images(mnist), hidden=256, epochs=epochs, rounds=rounds))
    return found


def _case(name: str, rows: Rows, *, hidden: int, epochs: int, rounds: int) -> Case:
    X, X_test, y, y_test = train_test_split(*rows, test_size=0.2, random_state=0, stratify=rows[1])
    train, test = (X.astype(np.float32), y), (X_test.astype(np.float32), y_test)
    return Case(name=name, train=train, test=test, hidden=hidden, epochs=epochs, rounds=rounds)


def makers(case: Case, solver: Mapping[str, Any], workers: Sequence[int]) -> dict[str, Make]:
    """Return the estimators by name, the peer first."""
    common = {"hidden_layer_sizes": (case.hidden,), "random_state": 0, "tol": 0.0, "n_iter_no_change": 10**6, **solver}

    def ours(count: int) -> Make:
        return lambda epochs: DistSGDClassifier(workers=count, max_iter=epochs, **common)

    return {PEER: lambda epochs: MLPClassifier(max_iter=epochs, **common)} | {
        f"DistSGDClassifier, workers={count}": ours(count) for count in workers
    }


def measure(case: Case, estimators: Mapping[str, Make]) -> list[Row]:
    """Fit and time all estimators; the first one is what the others are compared with."""
    fitted: dict[str, Any] = {}
    epochs: dict[str, int] = {}
    all_epochs: dict[str, list[float]] = {name: [] for name in estimators}
    to_loss: dict[str, list[float]] = {name: [] for name in estimators}
    for number in range(case.rounds):
        order = summary.rotated(list(estimators), number)
        for name in order:
            fitted[name] = estimators[name](case.epochs)
            all_epochs[name].append(seconds(fitted[name], case.train))
        if not epochs:
            loss = max(estimator.loss_ for estimator in fitted.values())
            epochs = {name: epochs_to(estimator.loss_curve_, loss) for name, estimator in fitted.items()}
        for name in order:
            shorter = epochs[name] < case.epochs
            to_loss[name].append(
                seconds(estimators[name](epochs[name]), case.train) if shorter else all_epochs[name][-1]
            )
    peer = next(iter(estimators))
    return [
        Row(
            estimator=name,
            epochs=epochs[name],
            to_loss_s=statistics.median(to_loss[name]),
            to_loss_ratio=ratio(to_loss[peer], to_loss[name]),
            all_s=statistics.median(all_epochs[name]),
            all_ratio=ratio(all_epochs[peer], all_epochs[name]),
            accuracy=float(fitted[name].score(*case.test)),
        )
        for name in estimators
    ]


def epochs_to(curve: Sequence[float], loss: float) -> int:
    """Return after how many epochs the training loss was as low as `loss` for the first time."""
    return next(number for number, value in enumerate(curve, 1) if value <= loss)


def seconds(estimator: Any, rows: Rows) -> float:
    """Return how long a fit takes."""
    began = time.perf_counter()
    estimator.fit(*rows)
    return time.perf_counter() - began


def ratio(peer: Sequence[float], own: Sequence[float]) -> float:
    """Return the median of the ratios of two estimators' times in each round."""
    return statistics.median(a / b for a, b in zip(peer, own, strict=True))


def cells(what: str, row: Row) -> tuple[str, ...]:
    """Return a row of the table, as COLUMNS says."""
    return (
        what,
        row.estimator,
        str(row.epochs),
        f"{row.to_loss_s:.3g}",
        f"{row.to_loss_ratio:.2f}",
        f"{row.all_s:.3g}",
        f"{row.all_ratio:.2f}",
        f"{row.accuracy:.4f}",
    )


def markdown(rows: Sequence[tuple[str, ...]], facts: Mapping[str, Any], conditions: str) -> str:
    """Return the table below a line with the machine and the conditions."""
    lines = [f"{machine.in_words(facts)} {conditions}", "", "| " + " | ".join(COLUMNS) + " |"]
    lines += ["|---|---|" + "--:|" * (len(COLUMNS) - 2), *("| " + " | ".join(row) + " |" for row in rows)]
    return "\n".join(lines)


@click.command(help=__doc__)
@click.option("--mnist", type=click.Path(path_type=Path, exists=True), help="Parquet file of MNIST's training rows.")
@click.option("--rounds", default=2, show_default=True, help="Rounds of MNIST; the smaller sets have more.")
@click.option("--epochs", default=20, show_default=True, help="Epochs of MNIST.")
@click.option("--workers", "workers", multiple=True, type=int, default=(0, 2), show_default=True)
@click.option("--markdown", "page", type=click.Path(path_type=Path, exists=True), help="Page whose section to update.")
def main(mnist: Path | None, rounds: int, epochs: int, workers: tuple[int, ...], page: Path | None) -> None:
    """Measure, print a line for each estimator, and update the page's section."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    console, found, load = Console(), [], machine.load_average()
    console.print(*COLUMNS, sep="  ", highlight=False, soft_wrap=True)
    with distsgd.session() if any(workers) else contextlib.nullcontext():
        if any(workers):
            DistSGDClassifier(workers=max(workers), num_shards=max(workers), max_iter=1).fit(
                *load_digits(return_X_y=True)
            )
        for case in cases(mnist, rounds, epochs):
            for solver, values in SOLVERS.items():
                what = f"{case.name}, {case.epochs} epochs, {solver}"
                for row in measure(case, makers(case, values, workers)):
                    found.append(cells(what, row))
                    console.print(*found[-1], sep="  ", highlight=False, soft_wrap=True)
    if page is not None:
        conditions = f"{rounds} rounds of MNIST; load average before {load:.1f}; {time.strftime('%Y-%m-%d')}."
        report.replace_results(page, markdown(found, machine.facts(), conditions), SECTION)


if __name__ == "__main__":
    main()
