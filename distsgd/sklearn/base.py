"""What the estimators share: from scikit-learn's parameters to a configuration, training, and the fitted attributes."""

from __future__ import annotations

import math
import sys
import warnings
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.validation import _check_sample_weight

from distsgd.config import Config
from distsgd.core.inputs import Inputs
from distsgd.core.net import Parameters
from distsgd.data import DataSet, Normalization
from distsgd.data.arrays import array_data, array_rows, distinct
from distsgd.engine.snapshot import Snapshot
from distsgd.engine.spec import RunSpec
from distsgd.engine.threads import THREADED_FLOPS
from distsgd.errors import DataError, RefusedError, TrainingError
from distsgd.run.fitting import FittedEpoch, fit
from distsgd.rundir.classifier import Classifier, weights_sha256

ACTIVATIONS = {"logistic": "sigmoid"}
"""Names of activations where scikit-learn's is another one."""

SHARDS = 4
"""Shards of a mini-batch that is worth dividing; their number is part of the result, so it depends on shapes alone."""

FEATURE_TYPES = (np.float64, np.float32)
"""Types of features that are taken as they are; others become the first one."""

BATCH_SIZE = 200
"""That of `MLPClassifier` for `batch_size="auto"`."""


class Estimator(BaseEstimator):  # type: ignore[misc]
    """What classifier and regressor share; see DistSGDClassifier."""

    _snapshot: Snapshot
    _loss: ClassVar[str]
    """Value of `model.loss`."""

    _score_name: ClassVar[str]
    """The metric of the held-out rows that early stopping goes by."""

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "hidden_layer_sizes": ["array-like", Interval(Integral, 0, None, closed="left")],
        "activation": [StrOptions({"relu", "logistic", "tanh", "leaky_relu", "elu", "gelu"})],
        "solver": [StrOptions({"sgd", "adam", "adagrad", "rmsprop"})],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "learning_rate": [StrOptions({"constant"})],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "shuffle": [Options(bool, {True})],
        "random_state": ["random_state"],
        "tol": [Interval(Real, 0, None, closed="left")],
        "verbose": ["verbose"],
        "warm_start": ["boolean"],
        "momentum": [Interval(Real, 0, 1, closed="left")],
        "nesterovs_momentum": ["boolean"],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "beta_1": [Interval(Real, 0, 1, closed="left")],
        "beta_2": [Interval(Real, 0, 1, closed="left")],
        "epsilon": [Interval(Real, 0, None, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left"), Options(Real, {np.inf})],
        "num_shards": [StrOptions({"auto"}), Interval(Integral, 1, 65536, closed="both")],
        "workers": [StrOptions({"auto"}), Interval(Integral, 0, None, closed="left")],
        "threads": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
    }

    def _config(self, rows: int, outputs: int, features: int, mean_weight: float, **data: Any) -> Config:
        """Return the configuration of a run with these parameters."""
        batch = min(rows, self._batch_size())
        hidden, shards = self._hidden(), self.num_shards
        if shards == "auto":
            size = (features + 1) * hidden + (hidden + 1) * outputs if hidden else (features + 1) * outputs
            shards = SHARDS if 6.0 * batch * size >= THREADED_FLOPS else 1
        shards = min(shards, batch)
        values = {
            "model.hidden": hidden,
            "model.loss": self._loss,
            "optim.lr": float(self.learning_rate_init),
            "optim.l2": float(self.alpha) / (2 * batch * mean_weight),  # as scikit-learn: alpha/2 ‖W‖² per mini-batch
            "optim.rule": self.solver,
            **self._solver_values(),
            "train.batch_size": batch,
            "train.num_shards": shards,
            "train.epochs": self.max_iter,
            "train.seed": int(check_random_state(self.random_state).randint(2**31 - 1)),
            "train.log_every": 2**62,
            "run.workers": self.workers if self.workers == "auto" else min(self.workers, shards),
            "run.threads": self.threads,
            "tracking.enabled": False,
        }
        if hidden:
            values["model.activation"] = ACTIVATIONS.get(self.activation, self.activation)
        return Config.build(values, data)

    def _solver_values(self) -> dict[str, Any]:
        """Return the settings of the update rule; those of another rule are not used, as in MLPClassifier."""
        if self.solver == "sgd":
            nesterov = bool(self.nesterovs_momentum) and self.momentum > 0
            return {"optim.momentum": float(self.momentum), "optim.nesterov": nesterov}
        values: dict[str, Any] = {"optim.epsilon": float(self.epsilon)}
        if self.solver != "adagrad":
            values["optim.beta2"] = float(self.beta_2)
        if self.solver == "adam":
            values["optim.beta1"] = float(self.beta_1)
        return values

    def _batch_size(self) -> int:
        return BATCH_SIZE if self.batch_size == "auto" else int(self.batch_size)

    def _hidden(self) -> int:
        """Return the number of hidden units H; ValueError if there is more than one hidden layer."""
        sizes = np.atleast_1d(np.asarray(self.hidden_layer_sizes, dtype=object)).tolist()
        if len(sizes) > 1 or any(not isinstance(size, Integral) or size < 0 for size in sizes):
            raise ValueError(
                f"hidden_layer_sizes is {self.hidden_layer_sizes}; expected one hidden layer such as (100,), or () for "
                "none: distsgd trains nets of two layers"
            )
        return int(sizes[0]) if sizes else 0

    def _train(self, config: Config, data: DataSet, *, epochs: int | None, goes_on: bool) -> None:
        """Train from the last state if it `goes_on`, else from the beginning; for `epochs`, or until no gain."""
        before = vars(self).get("_snapshot") if goes_on else None  # none if the first fit failed
        if before is None:
            self._best: Snapshot | None = None
            self.loss_curve_: list[float] = []
            self._no_improvement_count = self._epochs = 0
            scored = self.early_stopping and epochs is None
            self.validation_scores_: list[float] | None = [] if scored else None
            self.best_validation_score_: Any = -math.inf if scored else None
            self.best_loss_: Any = None if scored else math.inf
        done = self._epochs if epochs is not None else 0
        config = config.with_values({"train.epochs": done + (self.max_iter if epochs is None else epochs)})
        self.n_iter_ = 0

        def start(beginning: RunSpec) -> Snapshot:
            state, step = beginning.start, done * beginning.plan.sampler.steps_per_epoch
            if before is None:
                return state
            if before.parameters.shape != state.parameters.shape:
                raise ValueError("the shape of the net has changed; set warm_start=False to train it anew")
            slots = {name: before.slots.get(name, zeros) for name, zeros in state.slots.items()}
            return Snapshot(step=step, parameters=before.parameters, slots=slots if epochs else state.slots)

        try:
            spec = fit(config, data, start, lambda epoch: self._ended(epoch, incremental=epochs is not None))
        except (RefusedError, TrainingError) as error:
            raise ValueError(str(error)) from None
        if self._best is not None and epochs is None:
            self._snapshot = self._best
        self._net, self.weights_sha256_ = spec.net, weights_sha256(self._snapshot.parameters)
        self.n_layers_ = 3 if spec.net.hidden else 2
        self.n_outputs_ = spec.net.classes
        if epochs is None and self.n_iter_ == self.max_iter and self._no_improvement_count <= self.n_iter_no_change:
            warnings.warn(
                f"{type(self).__name__}: {self.max_iter} iterations (max_iter) are over, and training has not "
                "converged yet.",
                ConvergenceWarning,
                stacklevel=3,
            )

    def _ended(self, epoch: FittedEpoch, *, incremental: bool) -> bool:
        """Note the figures of an epoch; return whether to go on, by the rule of MLPClassifier."""
        self._snapshot, self.loss_ = epoch.snapshot, epoch.loss
        self.n_iter_ += 1
        self._epochs += 1
        self.loss_curve_.append(epoch.loss)
        if self.verbose:
            sys.stdout.write(f"Iteration {self.n_iter_}, loss = {epoch.loss:.8f}\n")
        if self.validation_scores_ is not None:
            score = epoch.metrics.get(self._score_name, math.nan)
            self.validation_scores_.append(score)
            gained = not score < self.best_validation_score_ + self.tol
            if score > self.best_validation_score_:
                self.best_validation_score_, self._best = score, epoch.snapshot
        else:
            gained = epoch.loss <= self.best_loss_ - self.tol
            self.best_loss_ = min(self.best_loss_, epoch.loss)
        self._no_improvement_count = 0 if gained else self._no_improvement_count + 1
        return incremental or self._no_improvement_count <= self.n_iter_no_change

    def _weights(self, sample_weight: Any, X: np.ndarray) -> np.ndarray | None:
        """Return the weights of the rows (N,), checked by scikit-learn."""
        if sample_weight is None:
            return None
        weights: np.ndarray = _check_sample_weight(sample_weight, X, dtype=np.float64)
        return weights

    def _learn(
        self,
        X: np.ndarray,
        y: np.ndarray,
        weights: np.ndarray | None,
        *,
        outputs: int,
        stratify: np.ndarray | None,
        epochs: int | None,
        goes_on: bool,
    ) -> None:
        """Train on checked arrays; for early stopping hold out some of the rows, of each class of `stratify` alike."""
        parts, held_out = [X, y, *([] if weights is None else [weights])], None
        if self.early_stopping and epochs is None:
            split = train_test_split(
                *parts, random_state=self.random_state, test_size=self.validation_fraction, stratify=stratify
            )
            parts, held_out = split[::2], split[1::2]
            if len(held_out[0]) < 2:
                raise ValueError(
                    "The validation set is too small. Increase 'validation_fraction' or the size of your dataset."
                )
        try:
            train, val = array_rows(*parts), None if held_out is None else array_rows(*held_out)
        except DataError as error:
            raise ValueError(str(error)) from None
        if len(train) <= self._batch_size():
            train = distinct(train)
        mean_weight = 1.0 if train.w is None else float(train.w.mean(dtype=np.float64))
        config = self._config(len(train), outputs, X.shape[1], mean_weight)
        self._train(config, array_data(train, val, outputs), epochs=epochs, goes_on=goes_on)

    def _keep(
        self, outputs: np.ndarray, normalization: Normalization | None = None, inputs: Inputs | None = None
    ) -> None:
        """Keep the trained model, whose outputs (C,) stand for classes, or have names."""
        D = self._net.features
        self.model_ = Classifier(
            net=self._net,
            flat=self._snapshot.parameters,
            classes=outputs,
            normalization=normalization or Normalization(np.zeros(D), np.ones(D)),
            inputs=inputs,
        )

    @property
    def coefs_(self) -> list[np.ndarray]:
        """The weight matrices: W1 (D, H) and W2 (H, C), or W2 (D, C) alone without a hidden layer; float32."""
        parameters = self._parameters()
        return [parameters.W1, parameters.W2] if self._net.hidden else [parameters.W2]

    @property
    def intercepts_(self) -> list[np.ndarray]:
        """The biases: b1 (H,) and b2 (C,), or b2 alone without a hidden layer; float32."""
        parameters = self._parameters()
        return [parameters.b1, parameters.b2] if self._net.hidden else [parameters.b2]

    def _parameters(self) -> Parameters:
        if "_net" not in vars(self):
            raise AttributeError(f"this {type(self).__name__} is not fitted yet")
        return self._net.split(self._snapshot.parameters)
