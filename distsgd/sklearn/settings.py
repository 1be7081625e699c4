"""From scikit-learn's parameters of an estimator to the configuration of a run."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from distsgd.config import Config
from distsgd.engine.threads import THREADED_FLOPS
from distsgd.errors import ConfigError
from distsgd.sklearn.messages import with_parameters

ACTIVATIONS = {"logistic": "sigmoid"}
"""Names of activations where scikit-learn's is another one."""

SHARDS = 4
"""Shards of a mini-batch that is worth dividing; their number is part of the result, so it depends on shapes alone."""

BATCH_SIZE = 200
"""That of `MLPClassifier` for `batch_size="auto"`."""


def configuration(
    of: Any, rows: int, outputs: int, features: int, *, loss: str, mean_weight: float = 1.0, **data: Any
) -> Config:
    """Return the configuration of a run with the parameters `of` an estimator.

    It has so many `rows`, whose weights have the mean `mean_weight`. ValueError for what cannot be trained.
    """
    batch = min(rows, batch_size(of))
    hidden, shards = hidden_units(of), of.num_shards
    if shards == "auto":
        size = (features + 1) * hidden + (hidden + 1) * outputs if hidden else (features + 1) * outputs
        shards = SHARDS if 6.0 * batch * size >= THREADED_FLOPS else 1
    shards = min(shards, batch)
    parts = batch if of.arithmetic == "portable" and shards > 1 else shards
    workers = 0 if parts == 1 else of.workers if of.workers == "auto" else min(of.workers, parts)
    values = {
        "model.hidden": hidden,
        "model.loss": loss,
        "optim.lr": float(of.learning_rate_init),
        "optim.l2": float(of.alpha) / (2 * batch * mean_weight),  # as scikit-learn: alpha/2 ‖W‖² per mini-batch
        "optim.rule": of.solver,
        **_solver_values(of),
        "train.batch_size": batch,
        "train.num_shards": shards,
        "train.arithmetic": of.arithmetic,
        "train.epochs": of.max_iter,
        "train.seed": seed_of(of.random_state),
        "train.log_every": 2**62,
        "run.workers": workers,
        "run.device": "cpu",  # whatever `workers` is: GPUs come to other bits
        "run.threads": of.threads,
        "tracking.enabled": False,
    }
    if hidden:
        values["model.activation"] = ACTIVATIONS.get(of.activation, of.activation)
    try:
        return Config.build(values, data)
    except ConfigError as error:
        raise ValueError(with_parameters(str(error))) from None


def seed_of(random_state: Any) -> int:
    """Return a seed that scikit-learn's `random_state` comes to: always the same one for a number."""
    return int(check_random_state(random_state).randint(2**31 - 1))


def _solver_values(of: Any) -> dict[str, Any]:
    """Return the settings of the update rule; those of another rule are not used, as in MLPClassifier."""
    if of.solver == "sgd":
        nesterov = bool(of.nesterovs_momentum) and of.momentum > 0
        return {"optim.momentum": float(of.momentum), "optim.nesterov": nesterov}
    values: dict[str, Any] = {"optim.epsilon": float(of.epsilon)}
    if of.solver != "adagrad":
        values["optim.beta2"] = float(of.beta_2)
    if of.solver == "adam":
        values["optim.beta1"] = float(of.beta_1)
    return values


def batch_size(of: Any) -> int:
    """Return the rows of a mini-batch, if there are so many."""
    return BATCH_SIZE if of.batch_size == "auto" else int(of.batch_size)


def hidden_units(of: Any) -> int:
    """Return the number of hidden units H; ValueError for several hidden layers, or an activation without one."""
    sizes = np.atleast_1d(np.asarray(of.hidden_layer_sizes, dtype=object)).tolist()
    if len(sizes) > 1 or any(not isinstance(size, Integral) or size < 0 for size in sizes):
        raise ValueError(
            f"hidden_layer_sizes is {of.hidden_layer_sizes}; expected one hidden layer such as (100,), or () for "
            "none: distsgd trains nets of two layers"
        )
    hidden = int(sizes[0]) if sizes else 0
    if not hidden and of.activation != "relu":
        raise ValueError(
            f"activation is {of.activation!r} and hidden_layer_sizes is {of.hidden_layer_sizes}; without a "
            "hidden layer there is no activation: leave it out, or set hidden_layer_sizes"
        )
    return hidden
