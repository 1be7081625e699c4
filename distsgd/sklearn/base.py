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
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from distsgd.config import Config
from distsgd.core.inputs import Inputs
from distsgd.core.net import Parameters
from distsgd.data import ArrayRows, DataSet, Normalization, Rows
from distsgd.data.arrays import array_data, array_rows, distinct
from distsgd.data.statistics import STATISTICS
from distsgd.engine.snapshot import Snapshot
from distsgd.engine.spec import RunSpec
from distsgd.errors import DataError, NonFiniteError, RefusedError, TrainingError
from distsgd.run.fitting import FittedEpoch, fit
from distsgd.rundir.classifier import Classifier, weights_sha256
from distsgd.sklearn.settings import batch_size, configuration, seed_of
from distsgd.sklearn.tables import check_unmasked, in_arrays, is_path, is_table, load_table

FEATURE_TYPES = (np.float64, np.float32)
"""Types of features that are taken as they are; others become the first one."""


class Estimator(BaseEstimator):  # type: ignore[misc]
    """What classifier and regressor share; see DistSGDClassifier."""

    _snapshot: Snapshot
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
        "arithmetic": [StrOptions({"fast", "portable"})],
        "num_shards": [StrOptions({"auto"}), Interval(Integral, 1, 65536, closed="both")],
        "workers": [StrOptions({"auto"}), Interval(Integral, 0, None, closed="left")],
        "threads": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
    }

    def _train(self, config: Config, data: DataSet, *, epochs: int | None, goes_on: bool) -> None:
        """Train from the last state if it `goes_on`, else from the beginning; for `epochs`, or until no gain."""
        before = self._snapshot if goes_on else None
        if before is None:
            self._best: Snapshot | None = None
            self.loss_curve_: list[float] = []
            self._no_improvement_count = self._epochs = 0
            scored = self.early_stopping and epochs is None
            self.validation_scores_: list[float] | None = [] if scored else None
            self.best_validation_score_: Any = -math.inf if scored else None
            self.best_loss_: Any = None if scored else math.inf
        if before is None or epochs is None:
            self._updates = 0  # which begin anew, as the state of the update rule does
        done, updates = (self._epochs, self._updates) if epochs is not None else (0, None)
        wanted = done + (self.max_iter if epochs is None else epochs)
        if wanted != config.train.epochs:  # a copy takes as long as some epochs on a few rows
            config = config.with_values({"train.epochs": wanted})
        self.n_iter_ = 0

        def start(beginning: RunSpec) -> Snapshot:
            state, step = beginning.start, done * beginning.plan.sampler.steps_per_epoch
            if before is None:
                return state
            if before.parameters.shape != state.parameters.shape:
                raise ValueError("the shape of the net has changed; call fit with warm_start=False to train it anew")
            slots = {name: before.slots.get(name, zeros) for name, zeros in state.slots.items()}
            return Snapshot(step=step, parameters=before.parameters, slots=slots if epochs else state.slots)

        try:
            spec = fit(
                config, data, start, lambda epoch: self._ended(epoch, incremental=epochs is not None), updates=updates
            )
        except NonFiniteError as error:
            raise ValueError(
                f"{error}: scale the features, or numbers to predict, for example with StandardScaler, or lower "
                "learning_rate_init"
            ) from None
        except (RefusedError, TrainingError) as error:
            raise ValueError(str(error)) from None
        if self._best is not None and epochs is None:
            self._snapshot = self._best
        self._net, self.weights_sha256_ = spec.net, weights_sha256(self._snapshot.parameters)
        self.n_layers_ = 3 if spec.net.hidden else 2
        self.n_outputs_ = spec.net.classes
        if data.val is not None and epochs is None:
            self._look_at(data)
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
        self._updates += epoch.steps
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

    def _look_at(self, data: DataSet) -> None:
        """Warn of what the trained net makes of the held-out rows, if it stands out."""

    def _mean_weight(self, rows: Rows) -> float:
        """Return the mean of the rows' weights, added as its arithmetic adds."""
        weights = rows.w if isinstance(rows, ArrayRows) else None
        return 1.0 if weights is None else STATISTICS[self.arithmetic].mean(weights)

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
        factors: np.ndarray | None = None,
        *,
        loss: str,
        outputs: int,
        stratify: np.ndarray | None,
        epochs: int | None,
        goes_on: bool,
    ) -> None:
        """Train on checked arrays; for early stopping hold out some of the rows, of each class of `stratify` alike.

        `weights` (N,) say how often rows count, `factors` (N,) how much more in training alone.
        """
        chosen: Any = slice(None)
        held_out = None
        if self.early_stopping and epochs is None:
            chosen, held_out = train_test_split(
                np.arange(len(X)), random_state=self.random_state, test_size=self.validation_fraction, stratify=stratify
            )
            if len(held_out) < 2:
                raise ValueError(
                    "The validation set is too small. Increase 'validation_fraction' or the size of your dataset."
                )
        try:
            train, val = array_rows(X[chosen], y[chosen], _product(weights, factors, chosen)), None
            if held_out is not None:
                val = array_rows(X[held_out], y[held_out], _product(weights, None, held_out))
        except DataError as error:
            raise ValueError(str(error)) from None
        if len(train) <= batch_size(self):
            train = distinct(train)
        config = configuration(self, len(train), outputs, X.shape[1], loss=loss, mean_weight=self._mean_weight(train))
        self._train(config, array_data(train, val, outputs), epochs=epochs, goes_on=goes_on)

    def _learn_table(
        self, X: Any, y: Any, loss: str, sample_weight: Any = None, class_weight: Any = None
    ) -> np.ndarray:
        """Train on a frame or the files of a path, see load_table; return what the outputs (C,) stand for."""
        if self.warm_start:
            raise ValueError("warm_start needs X as an array of numbers")
        held_out = self.validation_fraction if self.early_stopping else 0
        seed = seed_of(self.random_state) if held_out else None
        data, settings = load_table(X, y, loss, held_out, seed, sample_weight, class_weight, self.arithmetic)
        names = [column.name for column in data.inputs.columns]
        self.n_features_in_, self.feature_names_in_ = len(names), np.array(names, dtype=object)
        config = configuration(
            self,
            len(data.train),
            len(data.classes),
            data.train.features,
            loss=loss,
            mean_weight=self._mean_weight(data.train),
            **settings,
        )
        self._train(config, data, epochs=None, goes_on=False)
        self._keep(data.classes, data.normalization, data.inputs)
        return data.classes

    def _check_array(self, X: Any) -> None:
        """Refuse tables in partial_fit: categories and columns are those of all rows."""
        if is_table(X):
            raise ValueError("partial_fit takes X as an array of numbers; expected no text, categories or path")
        if "model_" in vars(self) and self.model_.inputs is not None:
            raise ValueError("this estimator was fitted to a table or to files; partial_fit goes on after arrays alone")

    def _features(self, X: Any) -> Any:
        """Return X as `model_` takes it, checked by scikit-learn if it was trained on arrays."""
        check_is_fitted(self, "model_")
        if self.model_.inputs is not None:
            return in_arrays(X, self.model_.inputs)
        if is_path(X):
            raise ValueError(f"X is the path {str(X)!r}, and this estimator was trained on arrays; pass rows in memory")
        check_unmasked(X)
        return validate_data(self, X, dtype=FEATURE_TYPES, reset=False)

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


def _product(weights: np.ndarray | None, factors: np.ndarray | None, rows: Any) -> np.ndarray | None:
    """Return the product of weights and factors (N,) of some rows; None if there are neither."""
    if weights is None or factors is None:
        found = weights if factors is None else factors
        return None if found is None else found[rows]
    product: np.ndarray = weights[rows] * factors[rows]
    return product
