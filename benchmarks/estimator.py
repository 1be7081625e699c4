"""`DistSGDClassifier` beside scikit-learn's `MLPClassifier` at equal settings: `python -m benchmarks.estimator`.

    python -m benchmarks.estimator [--mnist mnist.npz] [--repeats 3] [--workers 0,2]

For each data set and solver both train for the same number of epochs with the same mini-batches, learning rate and L2,
and the best of several repetitions counts. "to loss" is the time until an epoch's training loss is as low as the higher
of both final losses, in proportion to the epochs. With workers on Ray, Ray is started before, and one short fit is not
counted. `--mnist` is an `.npz` file with X (N, 784) and y (N,). Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import contextlib
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.datasets import load_digits, make_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

import distsgd
from distsgd.sklearn import DistSGDClassifier

SOLVERS: dict[str, dict[str, Any]] = {
    "sgd": {"solver": "sgd", "momentum": 0.9, "nesterovs_momentum": True, "learning_rate_init": 0.02},
    "adam": {"solver": "adam", "learning_rate_init": 0.001},
}
"""Both estimators get the same settings."""


def data_sets(mnist: str | None) -> dict[str, tuple[np.ndarray, np.ndarray, dict[str, Any]]]:
    """Return features, labels and settings by name."""
    digits = load_digits(return_X_y=True)
    few = make_classification(
        200, 4, n_informative=4, n_redundant=0, n_classes=3, n_clusters_per_class=1, random_state=0
    )
    found = {
        "200 rows": (*few, {"hidden_layer_sizes": (100,), "max_iter": 200}),
        "digits": (digits[0] / 16, digits[1], {"hidden_layer_sizes": (100,), "max_iter": 60}),
    }
    if mnist is not None:
        with np.load(mnist, allow_pickle=False) as file:
            X, y = file["X"].reshape(len(file["X"]), -1) / np.float32(255), file["y"].ravel()
        found["MNIST"] = (X.astype(np.float32), y, {"hidden_layer_sizes": (256,), "max_iter": 5})
    return found


def measured(make: Callable[[], Any], rows: list[np.ndarray], repeats: int) -> tuple[float, Any, float]:
    """Return the shortest time of a fit in seconds, the fitted estimator, and its accuracy on the rows held out."""
    X, X_test, y, y_test = rows
    best, estimator = np.inf, None
    for _ in range(repeats):
        estimator = make()
        began = time.perf_counter()
        estimator.fit(X, y)
        best = min(best, time.perf_counter() - began)
    assert estimator is not None
    return best, estimator, float(estimator.score(X_test, y_test))


def to_loss(seconds: float, curve: list[float], loss: float) -> float:
    """Return the seconds until the training loss was as low as `loss`."""
    reached = next((number for number, value in enumerate(curve, 1) if value <= loss), len(curve))
    return seconds * reached / len(curve)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", default="0,2")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    workers = [int(number) for number in arguments.workers.split(",")]
    with distsgd.session() if any(workers) else contextlib.nullcontext():
        for X, y, settings in data_sets(arguments.mnist).values():
            rows = train_test_split(X, y, test_size=0.2, random_state=0, stratify=y)
            for values in SOLVERS.values():
                common = settings | values | {"random_state": 0, "tol": 0.0, "n_iter_no_change": 10**6}
                makers: dict[str, Callable[[], Any]] = {"MLPClassifier": lambda c=common: MLPClassifier(**c)}  # type: ignore[misc]
                for count in workers:
                    makers[f"distsgd, workers={count}"] = lambda c=common, n=count: DistSGDClassifier(workers=n, **c)  # type: ignore[misc]
                    if count:
                        DistSGDClassifier(workers=count, max_iter=1).fit(rows[0][:200], rows[2][:200])
                found = {kind: measured(make, rows, arguments.repeats) for kind, make in makers.items()}
                loss = max(estimator.loss_ for _, estimator, _ in found.values())
                for seconds, estimator, _accuracy in found.values():
                    to_loss(seconds, estimator.loss_curve_, loss)


if __name__ == "__main__":
    main()
