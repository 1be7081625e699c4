"""Fits one classifier to one data set in this process and prints what came of it, as a line of JSON.

All nets have one hidden layer of ReLUs, mini-batches of 200 rows and Adam with a learning rate of 0.001; trees have the
defaults of their library. Features of the nets are scaled and one-hot, those of the trees as they are.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

BATCH = 200

Predict = Callable[[np.ndarray], np.ndarray]
"""Returns probabilities (n, C) for features (n, D)."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """The arguments of a contestant."""

    contestant: str
    data: Path
    threads: int
    hidden: int
    epochs: int

    def load(self, part: str) -> tuple[np.ndarray, np.ndarray]:
        """Return features (n, D) float32, in the form for this contestant, and classes (n,)."""
        form = "trees" if self.contestant in TREES else "nets"
        return np.load(self.data / f"{part}-{form}.npy"), np.load(self.data / f"{part}-y.npy")


def distsgd(task: Task) -> Callable[[np.ndarray, np.ndarray], Predict]:
    """Return a fit of `DistSGDClassifier` on threads of this process."""
    from distsgd.sklearn import DistSGDClassifier

    return _fit(DistSGDClassifier(**_settings_of_mlp(task)))


def sklearn(task: Task) -> Callable[[np.ndarray, np.ndarray], Predict]:
    """Return a fit of scikit-learn's `MLPClassifier`."""
    from sklearn.neural_network import MLPClassifier

    return _fit(MLPClassifier(**_settings_of_mlp(task)))


def _settings_of_mlp(task: Task) -> dict[str, Any]:
    return {
        "hidden_layer_sizes": (task.hidden,),
        "batch_size": BATCH,
        "max_iter": task.epochs,
        "random_state": 0,
        "tol": 0.0,
        "n_iter_no_change": task.epochs,
    }


def torch(task: Task) -> Callable[[np.ndarray, np.ndarray], Predict]:
    """Return a fit of the same net in PyTorch, written as its users would write it well (see torch_single)."""
    import torch as library
    from torch import nn

    def fit(X: np.ndarray, y: np.ndarray) -> Predict:
        library.set_num_threads(task.threads)
        library.manual_seed(0)
        features, labels = library.from_numpy(X), library.from_numpy(y)
        net = nn.Sequential(nn.Linear(X.shape[1], task.hidden), nn.ReLU(), nn.Linear(task.hidden, int(y.max()) + 1))
        optimizer = library.optim.Adam(net.parameters(), lr=0.001, fused=True)
        for _ in range(task.epochs):
            for index in library.randperm(len(X)).split(BATCH):
                optimizer.zero_grad()
                scores = net(features.index_select(0, index))
                nn.functional.cross_entropy(scores, labels.index_select(0, index)).backward()
                optimizer.step()

        def predict(rows: np.ndarray) -> np.ndarray:
            with library.no_grad():
                found: np.ndarray = net(library.from_numpy(rows)).softmax(1).numpy()
            return found

        return predict

    return fit


def lightgbm(task: Task) -> Callable[[np.ndarray, np.ndarray], Predict]:
    """Return a fit of LightGBM."""
    from lightgbm import LGBMClassifier

    return _fit(LGBMClassifier(n_jobs=task.threads, random_state=0, verbose=-1))


def xgboost(task: Task) -> Callable[[np.ndarray, np.ndarray], Predict]:
    """Return a fit of XGBoost."""
    from xgboost import XGBClassifier

    return _fit(XGBClassifier(n_jobs=task.threads, random_state=0))


def _fit(estimator: Any) -> Callable[[np.ndarray, np.ndarray], Predict]:
    def fit(X: np.ndarray, y: np.ndarray) -> Predict:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the nets have not converged after so few epochs
            estimator.fit(X, y)
        predict: Predict = estimator.predict_proba
        return predict

    return fit


NETS = {"distsgd": distsgd, "sklearn": sklearn, "torch": torch}
TREES = {"lightgbm": lightgbm, "xgboost": xgboost}


def measured(task: Task) -> dict[str, float]:
    """Return seconds of the fit, accuracy and log loss of the test rows, and the process's memory in MiB."""
    X, y = task.load("train")
    fit = (NETS | TREES)[task.contestant](task)
    before = _memory("VmRSS")
    began = time.perf_counter()
    predict = fit(X, y)
    seconds = time.perf_counter() - began
    peak = _memory("VmHWM")
    X_test, y_test = task.load("test")
    probabilities = predict(X_test)
    own = probabilities[np.arange(len(y_test)), y_test].astype(np.float64)
    return {
        "seconds": seconds,
        "accuracy": float((probabilities.argmax(axis=1) == y_test).mean()),
        "log_loss": float(-np.log(np.maximum(own, np.finfo(np.float32).tiny)).mean()),
        "before_mib": before,
        "peak_mib": peak,
    }


def _memory(name: str) -> float:
    """Return this process's resident memory now (VmRSS) or at its peak (VmHWM), in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise LookupError(f"no {name} in /proc/self/status")


def main() -> None:
    """Parse the command line and print the measurement."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--contestant", choices=[*NETS, *TREES], required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--hidden", type=int, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    click.echo(json.dumps(measured(Task(**vars(parser.parse_args())))))


if __name__ == "__main__":
    main()
