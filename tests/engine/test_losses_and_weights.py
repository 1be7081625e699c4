"""Training with every loss and with weights: against float64, for any number of workers, and as repeated rows."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from plain_training import some_spec, worker_of

from distsgd.core import numerics, reduction
from distsgd.core.losses import LOSSES
from distsgd.data import ArrayRows
from distsgd.engine.serial import SerialLoop
from distsgd.engine.spec import RunSpec

STEPS = 20
OUTPUTS = 4
CASES = [*((loss, 0.0) for loss in LOSSES), ("softmax", 0.1)]


def targets(loss: str, rows: int, rng: np.random.Generator) -> np.ndarray:
    """Return targets of a loss's kind."""
    if LOSSES[loss].target == "class":
        return rng.integers(OUTPUTS, size=rows)
    if LOSSES[loss].target == "labels":
        return rng.integers(2, size=(rows, OUTPUTS)).astype("f4")
    return rng.normal(3, 2, (rows, OUTPUTS)).astype("f4")


def spec_of(loss: str, smoothing: float, *, rows: int = 96, weighted: bool = True, **values) -> RunSpec:
    """Return a run on random rows, some of which weigh much more than others."""
    spec = some_spec(rows=rows, classes=OUTPUTS, **values)
    rng = np.random.default_rng(1)
    w = rng.choice([0.25, 1, 3, 20], rows).astype("f4") if weighted else None
    train = ArrayRows(spec.data.train.X, targets(loss, rows, rng), w)
    net = dataclasses.replace(spec.net, loss=loss, label_smoothing=smoothing)
    return dataclasses.replace(spec, net=net, data=dataclasses.replace(spec.data, train=train))


def trained(spec: RunSpec, steps: int) -> np.ndarray:
    loop, state = SerialLoop(spec), spec.start
    with numerics.pinned_blas(1, None):
        for _ in range(steps):
            state, _ = loop.step(state)
    return state.parameters


def gradient_of_scores(loss: str, s: np.ndarray, y: np.ndarray, smoothing: float) -> tuple[np.ndarray, np.ndarray]:
    """Return L_i (n,) and ∂L_i/∂s (n, C), example by example, from the definitions."""
    losses, ds = np.zeros(len(s)), np.zeros_like(s)
    for i, scores in enumerate(s):
        if loss == "softmax":
            q = np.full(OUTPUTS, smoothing / OUTPUTS)
            q[y[i]] += 1 - smoothing
            p = np.exp(scores) / np.exp(scores).sum()
            losses[i], ds[i] = -(q * np.log(p)).sum(), p - q
        elif loss == "hinge":
            for j in set(range(OUTPUTS)) - {int(y[i])}:
                margin = scores[j] - scores[y[i]] + 1
                if margin > 0:
                    losses[i] += margin
                    ds[i, j] += 1
                    ds[i, y[i]] -= 1
        elif loss == "logistic":
            p = 1 / (1 + np.exp(-scores))
            losses[i] = -(y[i] * np.log(p) + (1 - y[i]) * np.log(1 - p)).sum()
            ds[i] = p - y[i]
        else:
            losses[i], ds[i] = 0.5 * np.square(scores - y[i]).sum(), scores - y[i]
    return losses, ds


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("loss", "smoothing"), CASES)
def test_twenty_steps_agree_with_an_independent_implementation(loss, smoothing, weighted):
    values = {"train__batch_size": 96, "train__num_shards": 5, "optim__lr": 0.05, "optim__l2": 0.01}
    spec = spec_of(loss, smoothing, weighted=weighted, **values)
    net, data = spec.net, spec.data.train
    X, y = data.X.astype("f8"), data.y
    w = np.ones(len(X)) if data.w is None else data.w.astype("f8")
    flat = spec.start.parameters.astype("f8")
    for _ in range(STEPS):
        W1, b1, W2, b2 = net.split(flat)
        h = np.maximum(0, X @ W1 + b1)
        _, ds = gradient_of_scores(loss, h @ W2 + b2, y, smoothing)
        ds *= w[:, None] / w.sum()
        dh = (ds @ W2.T) * (h > 0)
        parts = (X.T @ dh + 0.02 * W1, dh.sum(axis=0), h.T @ ds + 0.02 * W2, ds.sum(axis=0))
        flat = flat - 0.05 * np.concatenate([part.ravel() for part in parts])
    found = trained(spec, STEPS)
    assert np.abs(found - flat).max() < 1e-4 * np.abs(flat).max()
    if weighted:
        other = trained(spec_of(loss, smoothing, weighted=False, **values), STEPS)
        assert np.abs(other - flat).max() > 1e-2 * np.abs(flat).max(), "the comparison would detect weights left out"


@pytest.mark.parametrize(("loss", "smoothing"), CASES)
def test_any_number_of_workers_gives_the_same_bits(loss, smoothing):
    spec = spec_of(loss, smoothing, rows=101)
    loop, flat, shards = SerialLoop(spec), spec.start.parameters, spec.config.train.num_shards
    with numerics.pinned_blas(1, None):
        rows = spec.plan.sampler.shard_rows(range(3, 4), range(shards))
        leaves = [loop.shard_gradient(flat, shard, index) for shard, index in zip(range(shards), rows, strict=True)]
        expected = reduction.combine(leaves, loop._additions, reduction.added)
        assert expected.weight == sum(leaf.weight for leaf in leaves) != expected.examples
        for count in (1, 2, 3):
            parts = []
            for run in reduction.assign(count, shards):
                worker = worker_of(spec)
                worker.prefetch(3, run, update_here=True)
                parts += worker.compute(3, flat, run)
            plan = reduction.additions(tuple(part.node for part in parts), (0, shards))
            total = reduction.combine(parts, plan, reduction.added)
            assert total.gradient.tobytes() == expected.gradient.tobytes()
            assert total[2:] == expected[2:]


@pytest.mark.parametrize("loss", LOSSES)
def test_a_weight_counts_as_so_many_rows(loss):
    """In one mini-batch of all rows; 7 shards of 40 rows and of 93 are cut at other places."""
    rng = np.random.default_rng(2)
    w = rng.integers(1, 5, 40)
    spec = spec_of(loss, 0.0, rows=40, train__batch_size=500, train__num_shards=7)
    once = spec.data.train
    weighted = dataclasses.replace(once, w=w.astype("f4"))
    repeated = ArrayRows(np.repeat(once.X, w, axis=0), np.repeat(once.y, w, axis=0))
    assert len(repeated) % 7
    found = []
    for train in (weighted, repeated):
        data = dataclasses.replace(spec.data, train=train)
        made = RunSpec.beginning(spec.config, data)
        found.append(trained(dataclasses.replace(made, net=spec.net), STEPS))
    assert np.abs(found[0] - found[1]).max() < 1e-5 * np.abs(found[0]).max()
