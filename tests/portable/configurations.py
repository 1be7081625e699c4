"""Random runs on random rows, from a number, over all update rules, schedules, activations and losses."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
from plain_training import some_spec

from distsgd.core.activations import ACTIVATIONS
from distsgd.core.losses import LOSSES
from distsgd.core.update_rules import RULES
from distsgd.data import ArrayRows, BatchTransform
from distsgd.engine.spec import RunSpec

STEPS = 12
OUTPUTS = 4
SCHEDULES = ("constant", "step", "cosine", "exponential")
KINDS = ("numbers", "ill-scaled", "zeros", "pixels", "shifted pixels", "small integers")


def spec_of(number: int, **values: object) -> RunSpec:
    """Return the beginning of a run of STEPS steps; `values` are further settings."""
    draw, rng = random.Random(number), np.random.default_rng(number)
    # The first runs have every rule, activation and loss; later ones their combinations.
    rule, activation, loss = (
        names[number % len(names)] if number < 6 else draw.choice(names)
        for names in (list(RULES), list(ACTIVATIONS), list(LOSSES))
    )
    hidden = draw.choice([0, 1, 7, 40, 130]) if number >= 6 else draw.choice([7, 40])
    rows, features = draw.choice([37, 96, 200]), draw.choice([1, 6, 30, 300])
    settings = {
        "train__arithmetic": "portable",
        "model__hidden": hidden,
        "model__loss": loss,
        "optim__rule": rule,
        "optim__l2": draw.choice([0.0, 1e-4, 0.1]),
        "optim__clip_norm": draw.choice([None, 0.1, 2.0]),
        "optim__schedule": draw.choice(SCHEDULES),
        "optim__final_lr": 1e-3,
        "optim__decay_every": 1.0,
        "optim__warmup_steps": draw.choice([0, 3]),
        "train__batch_size": draw.choice([8, 23, 64]),
        "train__num_shards": draw.choice([1, 4, 8]),
        "train__seed": number,
        "train__sampling": draw.choice(["shuffle", "replacement"]),
        "train__max_steps": STEPS,
        "train__epochs": STEPS,
    }
    if hidden:
        settings["model__activation"] = activation
    if rule == "sgd":
        settings["optim__momentum"] = draw.choice([0.0, 0.9])
    if loss == "softmax":
        settings["train__label_smoothing"] = draw.choice([0.0, 0.1])
    made = some_spec(rows=rows, features=features, classes=OUTPUTS, **settings | values)
    X, transform = _features(draw.choice(KINDS), rng, rows, features)
    weights = rng.choice([0.25, 1, 3.3, 20], rows).astype("f4") if draw.random() < 0.5 else None
    train = ArrayRows(X, _targets(loss, rows, rng), weights)
    val = ArrayRows(X[: rows // 3], _targets(loss, rows // 3, rng), None if weights is None else weights[: rows // 3])
    data = dataclasses.replace(made.data, train=train, val=val, transform=transform)
    return RunSpec.beginning(made.config, data)


def _features(kind: str, rng: np.random.Generator, rows: int, features: int) -> tuple[np.ndarray, BatchTransform]:
    if kind in ("numbers", "ill-scaled", "zeros"):
        X = rng.normal(size=(rows, features)) * (10.0 ** rng.integers(-6, 4, features) if kind == "ill-scaled" else 1)
        if kind == "zeros":
            X[rng.random(X.shape) < 0.9] = 0
        return X.astype("f4"), BatchTransform()
    dtype = "i2" if kind == "small integers" else "u1"
    X = rng.integers(0, 256, (rows, features)).astype(dtype)
    if kind == "small integers":
        return X, BatchTransform()
    if kind == "pixels":
        return X, BatchTransform(scale=np.array([1 / 255], "f4"))
    return X, BatchTransform(np.full(features, 120.5, "f4"), rng.uniform(0.01, 0.02, features).astype("f4"))


def _targets(loss: str, rows: int, rng: np.random.Generator) -> np.ndarray:
    if LOSSES[loss].target == "class":
        return rng.integers(OUTPUTS, size=rows)
    if LOSSES[loss].target == "labels":
        return rng.integers(2, size=(rows, OUTPUTS)).astype("f4")
    return rng.normal(3, 2, (rows, OUTPUTS)).astype("f4")
