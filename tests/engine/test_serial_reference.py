"""Training with two workers agrees with an independent implementation in float64."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import journal, slow_but_for

import distsgd

ROWS, FEATURES, HIDDEN, CLASSES = 203, 12, 9, 4
STEPS, LR, L2, MOMENTUM = 20, 0.2, 0.02, 0.8

Weights = dict[str, np.ndarray]

pytestmark = pytest.mark.usefixtures("own_folder", "joined")


def rows() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    y = np.arange(ROWS) % CLASSES
    return (rng.normal(size=(CLASSES, FEATURES))[y] + rng.normal(size=(ROWS, FEATURES))).astype("f4"), y


def loss_and_gradient(w: Weights, X: np.ndarray, y: np.ndarray, l2: float) -> tuple[float, Weights]:
    """Return L and its gradient, written from the formulas: h = max(0, X W1 + b1), s = h W2 + b2, ..."""
    n = len(X)
    h = np.maximum(0, X @ w["W1"] + w["b1"])
    s = h @ w["W2"] + w["b2"]
    p = np.exp(s - s.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    loss = -np.log(p[np.arange(n), y]).mean() + l2 * (np.square(w["W1"]).sum() + np.square(w["W2"]).sum())
    ds = (p - np.eye(CLASSES)[y]) / n
    dh = np.where(h > 0, ds @ w["W2"].T, 0)
    gradient = {"W1": X.T @ dh + 2 * l2 * w["W1"], "b1": dh.sum(axis=0)}
    gradient |= {"W2": h.T @ ds + 2 * l2 * w["W2"], "b2": ds.sum(axis=0)}
    return float(loss), gradient


def descent(w: Weights, rule: str, l2: float = L2) -> Iterator[tuple[float, Weights]]:
    """Yield each step's loss, before its update, and the weights after it."""
    X, y = rows()
    w = {name: value.astype("f8") for name, value in w.items()}
    v = {name: np.zeros_like(value) for name, value in w.items()}
    for _ in range(STEPS):
        loss, g = loss_and_gradient(w, X.astype("f8"), y, l2)
        if rule == "plain":
            w = {name: w[name] - LR * g[name] for name in w}
        else:
            v = {name: MOMENTUM * v[name] - LR * g[name] for name in w}
            ahead = {name: MOMENTUM * v[name] - LR * g[name] for name in w}
            w = {name: w[name] + (v if rule == "momentum" else ahead)[name] for name in w}
        yield loss, w


def train(name: str, **values: Any) -> Weights:
    """Train on all rows in every step and return the arrays of the model's file."""
    X, y = rows()
    np.savez("rows.npz", X=X, y=y)
    config = {
        "data.train": "rows.npz",
        "data.val_fraction": 0,
        "data.normalize": "none",
        "model.hidden": HIDDEN,
        "optim.lr": LR,
        "optim.l2": L2,
        "train.batch_size": 1000,
        "train.num_shards": 3,
        "train.epochs": 1000,
        "train.log_every": 1,
        "run.workers": 2,
        "run.dir": name,
        "tracking.enabled": False,
    }
    distsgd.train(config | {key.replace("__", "."): value for key, value in values.items()})
    with np.load(Path(name) / "model.npz", allow_pickle=False) as arrays:
        return {key: arrays[key] for key in ("W1", "b1", "W2", "b2")}


def far(found: Weights, expected: Weights) -> float:
    """Return the largest difference of an array's elements, relative to the array's largest element."""
    return max(float(np.abs(found[name] - expected[name]).max() / np.abs(expected[name]).max()) for name in expected)


RULES: dict[str, dict[str, Any]] = {
    "plain": {},
    "momentum": {"optim__momentum": MOMENTUM},
    "nesterov": {"optim__momentum": MOMENTUM, "optim__nesterov": True},
}


@pytest.mark.parametrize("rule", slow_but_for(RULES))
def test_twenty_steps_of_full_batch_descent(rule):
    initial = train("initial", train__max_steps=0, run__workers=0)
    found = train("trained", train__max_steps=STEPS, **RULES[rule])
    losses, weights = zip(*descent(initial, rule), strict=True)
    assert far(found, weights[-1]) < 1e-4
    assert [record["train/loss"] for record in journal(Path("trained"))] == pytest.approx(losses, rel=1e-4)
    # The comparison would detect another rule, or L2 left out or added by each worker.
    others = [list(descent(initial, other))[-1][1] for other in RULES if other != rule]
    others += [list(descent(initial, rule, l2))[-1][1] for l2 in (0, 2 * L2)]
    assert min(far(other, weights[-1]) for other in others) > 1e-2
